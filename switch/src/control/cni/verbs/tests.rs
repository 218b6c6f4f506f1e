use ipnet::IpNet;

use super::*;
use crate::control::state::State;
use crate::control::testing::state_with_cluster;

fn view(state: State, ready: bool) -> View {
    View { state: Arc::new(state), ready, ..View::default() }
}

fn said(result: Result<(), VerbError>) -> (u32, String) {
    let error = CniError::from(result.unwrap_err());
    (error.code, error.msg)
}

#[test]
fn status_says_what_is_missing() {
    assert!(status(&view(state_with_cluster(), true), false).is_ok());
    let (code, message) = said(status(&view(state_with_cluster(), false), false));
    assert!(code == 50 && message.contains("bringing its ports back"), "{message}");

    let mut bare = state_with_cluster();
    Arc::make_mut(&mut bare.node).pod_cidrs.clear();
    let (code, message) = said(status(&view(bare.clone(), true), false));
    assert!(code == 50 && message.contains("cluster file"), "{message}");
    assert!(status(&view(bare.clone(), true), true).is_ok(), "a delegated plugin has its own addresses");
    bare.bridges.clear();
    let (code, message) = said(status(&view(bare, true), true));
    assert!(code == 50 && message.contains("no bridge `br0`"), "{message}");
}

#[test]
fn status_tells_exhaustion_from_a_rest() {
    let mut state = state_with_cluster();
    Arc::make_mut(&mut state.node).pod_cidrs = vec!["10.244.1.0/30".parse().unwrap()];
    ipam::allocate(&mut state, "p", None, &[], unix_now()).unwrap();
    let (code, message) = said(status(&view(state.clone(), true), false));
    assert_eq!((code, message.as_str()), (50, "no free address in 10.244.1.0/30"));
    let freed = *state.ipam.leases.keys().next().unwrap();
    state.ipam.leases.clear();
    state.ipam.quarantine.insert(freed, unix_now());
    assert!(status(&view(state, true), false).is_ok());
}

#[test]
fn errors_have_the_codes_that_runtimes_know() {
    let code = |error: VerbError| CniError::from(error).code;
    let cidr: IpNet = "10.0.0.0/24".parse().unwrap();
    assert_eq!(code(IpamError::Exhausted { cidr, held: 0 }.into()), 11);
    assert_eq!(code(IpamError::NoPool.into()), 7);
    assert_eq!(code(ApiError::new(Code::Unavailable, "x").into()), 11);
    assert_eq!(code(ApiError::new(Code::Conflict, "x").into()), 7);
    assert_eq!(code(ApiError::new(Code::Internal, "x").into()), 999);
}
