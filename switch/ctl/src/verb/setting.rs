//! `set` and `get`.

use anyhow::anyhow;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use weft_api::{BridgeInfo, Command, PortInfo};

use super::{Verb, bridge, port};
use crate::keys::{self, Setting};
use crate::session::{Exit, Session, UsageError};

/// What has settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Table {
    /// A bridge
    #[value(alias = "br", alias = "Bridge")]
    Bridge,
    /// A port
    #[value(alias = "Port")]
    Port,
    /// The same as port
    #[value(alias = "iface", alias = "Interface")]
    Interface,
}

/// Change settings of a bridge or port
#[derive(Debug, Args)]
#[command(after_help = "\
An empty value clears a setting. In the transaction that adds a port every setting of add-port may be set, later only
tag, trunks, guard, ip, mac, mtu, remote and external_ids:KEY.

Examples:
  weft set bridge br1 ageing-seconds=60
  weft set port web tag=5 external_ids:team=shop
  weft add-port br0 vx0 -- set interface vx0 type=vxlan options:remote_ip=192.0.2.7 options:key=42")]
pub(crate) struct Set {
    /// What it is
    #[arg(value_enum)]
    table: Table,
    /// Its name
    name: String,
    /// Settings of the form key=value
    #[arg(value_name = "KEY=VALUE", required = true)]
    settings: Vec<Setting>,
}

impl Verb for Set {
    fn plan(&self, commands: &mut Vec<Command>) -> Result<(), UsageError> {
        if self.table == Table::Bridge {
            for setting in keys::joined(&self.settings) {
                let (key, value) = keys::bridge_change(&setting)?;
                commands.push(Command::SetBridge { name: self.name.clone(), key, value });
            }
            return Ok(());
        }
        // A port that this very transaction makes is made as it shall be.
        let fresh = commands.iter_mut().find_map(|command| match command {
            Command::AddPort { port, may_exist: false } if port.name == self.name => Some(port),
            _ => None,
        });
        if let Some(port) = fresh {
            return self.settings.iter().try_for_each(|setting| keys::apply_to_port(port, setting));
        }
        for setting in keys::joined(&self.settings) {
            let (key, value) = keys::port_change(&setting)?;
            commands.push(Command::SetPort { name: self.name.clone(), key, value });
        }
        Ok(())
    }
}

/// Print settings and state of a bridge or port
#[derive(Debug, Args)]
#[command(after_help = "\
One value per line in the order asked for; all of them as key=value when none is named.

Examples:
  weft get port web mac ip
  weft get interface web statistics:rx_bytes
  weft get bridge br0")]
pub(crate) struct Get {
    /// What it is
    #[arg(value_enum)]
    table: Table,
    /// Its name
    name: String,
    /// What to print, `column` or `column:key`
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
    /// A missing bridge, port or key prints []
    #[arg(long)]
    if_exists: bool,
}

impl Verb for Get {
    fn run(&self, session: &mut Session) -> anyhow::Result<Exit> {
        let record = match self.record(session) {
            Ok(record) => record,
            Err(error) if self.if_exists && error.downcast_ref::<weft_api::ClientError>().is_none() => {
                Map::new()
            }
            Err(error) => return Err(error),
        };
        if self.keys.is_empty() {
            session.print(&record, |record| {
                record.iter().map(|(key, value)| format!("{key}={}\n", plain(value))).collect()
            });
            return Ok(Exit::Ok);
        }
        let mut values = Vec::new();
        for key in &self.keys {
            let value = match lookup(&record, &keys::canonical(key)) {
                Some(value) => value.clone(),
                None if self.if_exists => Value::Null,
                None => {
                    let key = keys::canonical(key);
                    let what = format!(
                        "{} {}",
                        if self.table == Table::Bridge { "bridge" } else { "port" },
                        self.name
                    );
                    return Err(not_there(&record, &key, &what).into());
                }
            };
            values.push((key.clone(), value));
        }
        if session.json() {
            session.print(&values.into_iter().collect::<Map<_, _>>(), |_| String::new());
        } else {
            for (_, value) in values {
                session.line(&plain(&value));
            }
        }
        Ok(Exit::Ok)
    }
}

impl Get {
    fn record(&self, session: &mut Session) -> anyhow::Result<Map<String, Value>> {
        let value = match self.table {
            Table::Bridge => bridge_record(&bridge::find(session, &self.name)?),
            Table::Port | Table::Interface => port_record(&port::find(session, &self.name)?),
        };
        match value {
            Value::Object(record) => Ok(record),
            _ => Err(anyhow!("the record of {} has no columns", self.name)),
        }
    }
}

/// A bridge in the words of `add-br`.
fn bridge_record(info: &BridgeInfo) -> Value {
    let spec = &info.spec;
    json!({
        "name": spec.name, "owner": spec.owner, "gateway": spec.gateways, "mac": info.router_mac.or(spec.mac),
        "mtu": spec.mtu, "local-mtu": spec.local_mtu, "ageing-seconds": spec.ageing_seconds, "fdb-max": spec.fdb_max,
        "flood-pps": spec.flood_pps, "fdb-learned": info.fdb_learned, "ports": info.ports,
    })
}

/// A port in the words of `add-port`.
fn port_record(info: &PortInfo) -> Value {
    let spec = &info.spec;
    json!({
        "name": spec.name, "bridge": spec.bridge, "type": spec.kind, "owner": spec.owner, "state": info.state,
        "error": info.error, "netns": spec.netns, "ifname": spec.ifname, "mac": spec.mac, "ip": spec.ips,
        "gateway": spec.gateways, "route": spec.routes, "mtu": spec.mtu, "local-mtu": info.local_mtu, "tag": spec.tag, "trunks": spec.trunks,
        "guard": spec.guard, "offloads": info.offloads, "offloads-off": spec.offloads_off, "queues": spec.queues,
        "vni": spec.vni, "remote": spec.remotes, "udp-port": spec.udp_port, "external_ids": spec.external_ids,
        "statistics": info.counters,
    })
}

/// `column` or `column:key`.
fn lookup<'a>(record: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    if let Some(value) = record.get(key) {
        return Some(value);
    }
    let (column, key) = key.split_once(':')?;
    record.get(column)?.get(key)
}

/// The error for a key that [`lookup`] does not find.
fn not_there(record: &Map<String, Value>, key: &str, what: &str) -> UsageError {
    let column = key.split_once(':').and_then(|(column, key)| Some((column, record.get(column)?, key)));
    match column {
        None => keys::unknown(key, what, record.keys().map(String::as_str)),
        Some((column, Value::Object(map), key)) if !map.is_empty() => {
            let known = map.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            UsageError::new(format!("`{key}` is not in {column} of {what}; there are: {known}"))
        }
        Some((column, Value::Object(_), key)) => {
            UsageError::new(format!("`{key}` is not in {column} of {what}, which is empty"))
        }
        Some((column, ..)) => {
            UsageError::new(format!("{column} of {what} has no keys; leave `:` and the rest out"))
        }
    }
}

/// A value on one line: lists with commas, maps as `{key=value}`, nothing as `[]`, as ovs-vsctl has it.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "[]".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) if values.is_empty() => "[]".to_owned(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(","),
        Value::Object(map) => {
            let pairs: Vec<_> = map.iter().map(|(key, value)| format!("{key}={}", plain(value))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
        other => other.to_string(),
    }
}
