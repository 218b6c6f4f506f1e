//! Calls of the CNI plugin, as a runtime makes them: environment, standard input, standard output.

use std::io::Write;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::bin;
use crate::node::Node;

/// A plugin on one node: weft's, or one that is chained to it.
#[derive(Debug)]
pub struct Cni<'a> {
    node: &'a Node,
    plugin: String,
    version: String,
    args: String,
    extra: Value,
}

impl<'a> Cni<'a> {
    /// weft's plugin, version 1.0.0, interface `eth0`, network `weft`.
    pub fn new(node: &'a Node) -> Self {
        let (plugin, version) = ("weft-cni".into(), "1.0.0".into());
        Cni { node, plugin, version, args: String::new(), extra: json!({}) }
    }

    /// Another plugin, of those that the distribution has.
    pub fn plugin(mut self, name: &str) -> Self {
        self.plugin = name.into();
        self
    }

    /// Another version of the specification.
    pub fn version(mut self, version: &str) -> Self {
        self.version = version.into();
        self
    }

    /// CNI_ARGS.
    pub fn args(mut self, args: &str) -> Self {
        self.args = args.into();
        self
    }

    /// Further keys of the network's configuration.
    pub fn with(mut self, extra: Value) -> Self {
        self.extra = extra;
        self
    }

    /// ADD; the result.
    pub fn add(&self, id: &str, netns: &str) -> Result<Value> {
        self.call("ADD", id, netns, json!({}))
    }

    /// DEL.
    pub fn del(&self, id: &str, netns: &str) -> Result<()> {
        self.call("DEL", id, netns, json!({})).map(drop)
    }

    /// CHECK against an earlier result.
    pub fn check(&self, id: &str, netns: &str, previous: &Value) -> Result<()> {
        self.call("CHECK", id, netns, json!({ "prevResult": previous })).map(drop)
    }

    /// STATUS.
    pub fn status(&self) -> Result<()> {
        self.call("STATUS", "", "", json!({})).map(drop)
    }

    /// GC with the attachments that live.
    pub fn gc(&self, valid: &[&str]) -> Result<()> {
        let valid: Vec<_> = valid.iter().map(|id| json!({ "containerID": id, "ifname": "eth0" })).collect();
        self.call("GC", "", "", json!({ "cni.dev/valid-attachments": valid })).map(drop)
    }

    /// The configuration that goes to standard input.
    pub fn config(&self, keys: Value) -> Value {
        let mut config = json!({
            "cniVersion": self.version, "name": "weft", "type": self.plugin, "socket": self.node.cni_socket(),
            "queueDir": self.node.file("state/cni-del"),
        });
        for more in [&self.extra, &keys] {
            for (key, value) in more.as_object().into_iter().flatten() {
                config[key] = value.clone();
            }
        }
        config
    }

    /// Any verb. An error is `CODE: message`.
    pub fn call(&self, verb: &str, id: &str, netns: &str, keys: Value) -> Result<Value> {
        let output = self.start(verb, id, netns, keys)?.wait_with_output()?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let value: Value = match stdout.trim() {
            "" => Value::Null,
            text => {
                serde_json::from_str(text).with_context(|| format!("{verb} printed {stdout} {stderr}"))?
            }
        };
        if !output.status.success() {
            bail!("{}: {} {}", value["code"], value["msg"], value["details"]);
        }
        Ok(value)
    }

    /// Starts any verb. The process is the plugin itself; its input has been written.
    pub fn start(&self, verb: &str, id: &str, netns: &str, keys: Value) -> Result<Child> {
        let program = match self.plugin.as_str() {
            "weft-cni" => bin::path("weft-cni"),
            other => format!("/usr/lib/cni/{other}"),
        };
        let mut command = self.node.ns.command(&program, &[]);
        command.env("CNI_COMMAND", verb).env("CNI_PATH", format!("{}:/usr/lib/cni", bin::dir().display()));
        if !id.is_empty() {
            command.env("CNI_CONTAINERID", id).env("CNI_IFNAME", "eth0").env("CNI_ARGS", &self.args);
        }
        if !netns.is_empty() {
            command.env("CNI_NETNS", netns);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting {program}"))?;
        child.stdin.take().context("no stdin")?.write_all(self.config(keys).to_string().as_bytes())?;
        Ok(child)
    }
}
