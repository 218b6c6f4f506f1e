//! What the CNI plugin reads from its runtime, and what the daemon reads from the plugin.

use weft_api::cni::Request;

use crate::record;

/// A byte for the verb, records of CNI_CONTAINERID, CNI_IFNAME and CNI_ARGS, and the rest as stdin: a call is
/// understood, or refused with an error in the shape of the specification.
pub fn cni(mut data: &[u8]) {
    let verbs = ["ADD", "DEL", "CHECK", "VERSION", "STATUS", "GC", "", "add"];
    let [verb] = crate::take(&mut data);
    let mut text = || String::from_utf8_lossy(record(&mut data).unwrap_or_default()).into_owned();
    let (container, ifname, args) = (text(), text(), text());
    let variable = |name: &str| match name {
        "CNI_COMMAND" => verbs[usize::from(verb) % verbs.len()].to_owned(),
        "CNI_CONTAINERID" => container.clone(),
        "CNI_IFNAME" => ifname.clone(),
        "CNI_ARGS" => args.clone(),
        "CNI_NETNS" => "/run/netns/x".to_owned(),
        "CNI_PATH" => "/opt/cni/bin".to_owned(),
        _ => String::new(),
    };
    let Err(error) = weft_cni::examine(variable, data) else { return };
    assert!(error["code"].as_u64().is_some_and(|code| code > 0), "{error}");
    assert!(error["msg"].as_str().is_some_and(|msg| !msg.is_empty()), "{error}");
    assert!(error["cniVersion"].as_str().is_some_and(|version| !version.is_empty()), "{error}");
    if let Some(details) = error.get("details") {
        assert!(details.as_str().is_some_and(|details| !details.is_empty()), "{error}");
    }
}

/// A message on the daemon's socket of the plugin: what decodes is the same once sent again, and names a file of the
/// queue that is no other directory's.
pub fn request(data: &[u8]) {
    let Ok(request) = serde_json::from_slice::<Request>(data) else { return };
    let again = serde_json::to_vec(&request).expect("a request encodes");
    assert_eq!(serde_json::from_slice::<Request>(&again).expect("what was encoded decodes"), request);
    let attachment = match &request {
        Request::Add(attach) => &attach.attachment,
        Request::Del { attachment } | Request::Check { attachment, .. } => attachment,
        Request::Status { .. } | Request::Gc { .. } => return,
    };
    let file = attachment.queue_file();
    assert!(file.len() == 21 && file.ends_with(".json") && !file.contains('/'), "{file}");
}
