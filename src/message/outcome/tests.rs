use proptest::prelude::*;

use super::*;

fn target() -> CreateTarget {
    CreateTarget { group: "example.com".into(), plural: "widgets".into(), kind: "Widget".into() }
}

/// A status about our object.
fn status(code: u16, reason: &str, message: &str) -> ApiStatus {
    ApiStatus {
        code,
        reason: reason.into(),
        message: message.into(),
        kind: "widgets".into(),
        group: "example.com".into(),
        name: "w-1".into(),
        ..ApiStatus::default()
    }
}

fn forbidden(message: &str) -> ApiStatus {
    status(403, "Forbidden", message)
}

const FULL: &str = "widgets.example.com \"w-1\" is forbidden: exceeded quota: team-quota, requested: \
     count/widgets.example.com=1, used: count/widgets.example.com=5, limited: count/widgets.example.com=5";

fn class(status: &ApiStatus) -> Answer {
    classify(status, &target())
}

#[test]
fn a_full_quota() {
    let Answer::QuotaExceeded(refusal) = class(&forbidden(FULL)) else { panic!("{:?}", class(&forbidden(FULL))) };
    assert_eq!(refusal.quota, "team-quota");
    assert_eq!(refusal.requested, BTreeMap::from([("count/widgets.example.com".into(), "1".into())]));
    assert_eq!(refusal.used, BTreeMap::from([("count/widgets.example.com".into(), "5".into())]));
    assert_eq!(refusal.limited, refusal.used);
}

#[test]
fn several_resources_of_a_core_kind() {
    let core = CreateTarget { group: String::new(), plural: "pods".into(), kind: "Pod".into() };
    let mut full = forbidden(
        "pods \"p\" is forbidden: exceeded quota: q, requested: limits.cpu=1500m,requests.cpu=500m, \
         used: limits.cpu=1,requests.cpu=1, limited: limits.cpu=2,requests.cpu=1",
    );
    (full.kind, full.group) = ("pods".into(), String::new());
    let Answer::QuotaExceeded(refusal) = classify(&full, &core) else { panic!("{:?}", classify(&full, &core)) };
    assert_eq!(refusal.requested.len(), 2);
    assert_eq!(refusal.limited.get("requests.cpu").map(String::as_str), Some("1"));
}

#[test]
fn more_than_the_quota_allows_at_all() {
    for (requested, limited, never) in [
        ("2", "1", true),
        ("1", "0", true),
        ("1500m", "1", true),
        ("1", "1", false),
        ("1", "1k", false),
        ("1", "x", false),
    ] {
        let text = format!(
            "widgets.example.com \"w-1\" is forbidden: exceeded quota: q, requested: cpu={requested}, used: cpu=0, limited: cpu={limited}"
        );
        let got = class(&forbidden(&text));
        assert_eq!(matches!(got, Answer::NeverFits(_)), never, "{requested} of {limited}: {got:?}");
        assert_eq!(matches!(got, Answer::QuotaExceeded(_)), !never);
    }
}

#[test]
fn the_rows_of_the_table() {
    let on = |text: &str| forbidden(&format!("widgets.example.com \"w-1\" is forbidden: {text}"));
    assert_eq!(
        class(&on("status unknown for quota: team-quota, resources: count/widgets.example.com,pods")),
        Answer::StatusUnknown {
            quota: "team-quota".into(),
            resources: vec!["count/widgets.example.com".into(), "pods".into()]
        }
    );
    let refused = |status: &ApiStatus| {
        let Answer::TargetRefused { what, text } = class(status) else { panic!("{:?}", class(status)) };
        assert_eq!(text, status.message);
        what
    };
    assert_eq!(refused(&on("failed quota: q: must specify limits.cpu for: c")), RefusedWhat::MustSpecify);
    assert_eq!(refused(&on("insufficient quota to consume: count/widgets.example.com")), RefusedWhat::NoQuota);
    assert!(matches!(class(&on("quota usage is negative for resource(s): cpu")), Answer::Unknown { .. }));

    // The right to create is checked before there is a name.
    let rights = forbidden(
        "widgets.example.com is forbidden: User \"system:serviceaccount:team:s\" cannot create resource \"widgets\" \
         in API group \"example.com\" in the namespace \"team\"",
    );
    assert_eq!(refused(&rights), RefusedWhat::Rights);
    let mut going = on("unable to create new content in namespace team because it is being terminated");
    going.causes = vec![Cause { reason: "NamespaceTerminating".into(), ..Cause::default() }];
    assert_eq!(refused(&going), RefusedWhat::Namespace);

    for code in [404, 405, 406, 415] {
        assert_eq!(
            refused(&status(code, "NotFound", "the server could not find the requested resource")),
            RefusedWhat::Kind
        );
    }
    let mut no_namespace = status(404, "NotFound", "namespaces \"team\" not found");
    (no_namespace.kind, no_namespace.group) = ("namespaces".into(), String::new());
    assert_eq!(refused(&no_namespace), RefusedWhat::Namespace);

    assert_eq!(
        class(&status(409, "AlreadyExists", "widgets.example.com \"w-1\" already exists")),
        Answer::AlreadyExists
    );
    let mut race =
        status(409, "Conflict", "Operation cannot be fulfilled on resourcequotas \"q\": the object has been modified");
    (race.kind, race.group) = ("resourcequotas".into(), String::new());
    assert_eq!(class(&race), Answer::QuotaConflict);

    for (code, reason) in [(400, "BadRequest"), (422, "Invalid")] {
        assert_eq!(class(&status(code, reason, "no")), Answer::Poison(DeadReason::InvalidObject, "no".into()));
    }
    let large = "Request entity too large: limit is 3145728";
    assert_eq!(class(&status(413, "RequestEntityTooLarge", large)), Answer::Poison(DeadReason::TooLarge, large.into()));
    let store = "etcdserver: request is too large";
    assert_eq!(class(&status(500, "", store)), Answer::Poison(DeadReason::TooLarge, store.into()));

    assert_eq!(class(&status(401, "Unauthorized", "Unauthorized")), Answer::Unauthorized);
    let after = Some(Duration::from_secs(1));
    let slow = ApiStatus { retry_after: after, ..status(429, "TooManyRequests", "slow down") };
    assert_eq!(class(&slow), Answer::Throttled { after });
    for (code, text) in [
        (500, "Internal error occurred: resource quota evaluation timed out"),
        (500, "Internal error occurred: failed calling webhook \"w\": connection refused"),
        (502, "bad gateway"),
        (503, "unavailable"),
        (504, "Timeout: request did not complete within requested timeout"),
        (408, "timeout"),
        (0, ""),
    ] {
        assert_eq!(class(&status(code, "", text)), Answer::Unknown { text: text.into() });
    }
}

#[test]
fn look_alikes_are_tried_again() {
    let again = |status: &ApiStatus| assert!(matches!(class(status), Answer::Again { .. }), "{:?}", class(status));
    // A webhook may say what it likes, with any code.
    for code in [400, 403, 404, 409, 413, 422, 429] {
        again(&status(code, "Forbidden", &format!("admission webhook \"w.example.com\" denied the request: {FULL}")));
    }
    again(&status(
        422,
        "Invalid",
        "widgets.example.com \"w-1\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no",
    ));
    // Words in the wrong place, of another resource, in another shape.
    again(&forbidden("policy says: exceeded quota: q, requested: a=1, used: a=1, limited: a=1"));
    again(&forbidden(&FULL.replace("widgets.example.com \"w-1\"", "gadgets.example.com \"w-1\"")));
    again(&forbidden("widgets.example.com \"w-1\" is forbidden: exceeded quota"));
    again(&forbidden("widgets.example.com \"w-1\" is forbidden: exceeded quota: q, requested: a=1, limited: a=1"));
    again(&forbidden(
        "widgets.example.com \"w-1\" is forbidden: exceeded quota: q, requested: a, used: a=1, limited: a=1",
    ));
    again(&forbidden(
        "widgets.example.com \"w-1\" is forbidden: no, exceeded quota: q, requested: a=1, used: a=1, limited: a=1",
    ));
    again(&forbidden("widgets.example.com \"w-1\" is forbidden: violates PodSecurity \"restricted:latest\""));
    again(&forbidden("widgets.example.com is forbidden: User \"u\" cannot patch resource \"widgets\""));
    again(&status(403, "Other", FULL));
    again(&ApiStatus { kind: "gadgets".into(), ..forbidden(FULL) });
    again(&ApiStatus { group: String::new(), ..forbidden(FULL) });
    again(&ApiStatus { kind: String::new(), group: String::new(), ..forbidden(FULL) });
    // The other conflicts, and what has no row.
    again(&status(409, "Conflict", "Operation cannot be fulfilled on widgets \"w-1\""));
    // A proxy's page, and not the server's word on the object.
    for code in [400, 413, 422] {
        again(&status(code, "", "<html><body>Bad Request</body></html>"));
    }
    again(&status(402, "", "pay"));
    again(&status(451, "", "no"));
}

#[test]
fn only_silence_and_a_taken_name_leave_a_doubt() {
    assert!(class(&forbidden(FULL)).is_definite());
    assert!(class(&status(401, "", "")).is_definite());
    assert!(!class(&status(429, "", "")).is_definite());
    assert!(!class(&status(500, "", "")).is_definite());
    assert!(!class(&status(409, "AlreadyExists", "")).is_definite());
}

proptest! {
    /// Whatever a server says, only its own 400, 413, 422 and the store's limit make a message a dead letter.
    #[test]
    fn nothing_else_empties_the_stream(code: u16, reason in "(Forbidden|Conflict|BadRequest|Invalid|RequestEntityTooLarge|.*)", message in ".*", kind in "(widgets|.*)") {
        let status = ApiStatus { code, reason, message, kind, group: "example.com".into(), ..ApiStatus::default() };
        let poison = matches!(classify(&status, &target()), Answer::Poison(..));
        let own = [(400, "BadRequest"), (413, "RequestEntityTooLarge"), (422, "Invalid")];
        prop_assert!(!poison || code == 500 || own.contains(&(code, status.reason.as_str())));
    }
}

#[test]
fn what_is_denied_to_a_call_that_is_none_of_a_messages() {
    assert_eq!(denied(&forbidden("leases is forbidden: User \"u\" cannot get resource")), Some(RefusedWhat::Rights));
    let mut going = forbidden("leases is forbidden: unable to create new content");
    going.causes = vec![Cause { reason: "NamespaceTerminating".into(), ..Cause::default() }];
    assert_eq!(denied(&going), Some(RefusedWhat::Namespace));
    let mut gone = status(404, "NotFound", "namespaces \"n\" not found");
    (gone.kind, gone.group) = ("namespaces".into(), String::new());
    assert_eq!(denied(&gone), Some(RefusedWhat::Namespace));
    for code in [401, 404, 409, 429, 500, 503] {
        assert_eq!(denied(&status(code, "", "")), None, "{code}");
    }
}

#[test]
fn a_refusal_is_late_where_a_newer_view_has_room() {
    let of = |amounts: [(&str, &str); 2]| amounts.map(|(name, amount)| (name.to_owned(), amount.to_owned())).into();
    let refusal = QuotaRefusal {
        quota: "q".into(),
        requested: of([("pods", "1"), ("requests.cpu", "500m")]),
        used: of([("pods", "5"), ("requests.cpu", "1")]),
        limited: of([("pods", "5"), ("requests.cpu", "4")]),
    };
    let sees = |pods: Option<u64>, cpu: u64| {
        refusal.is_late(|resource| match resource {
            "pods" => pods.map(Quantity::from_whole),
            _ => Some(Quantity::from_whole(cpu)),
        })
    };
    assert!(sees(Some(4), 1), "one has gone");
    assert!(sees(Some(4), 4), "the cpu was not what was refused");
    assert!(!sees(Some(5), 1), "it is as the refusal says");
    assert!(!sees(None, 1), "nothing is known of what was refused");
    let unread = QuotaRefusal { limited: of([("pods", "many"), ("requests.cpu", "4")]), ..refusal.clone() };
    assert!(!unread.is_late(|_| Some(Quantity::ZERO)), "what cannot be read proves nothing");
    let both = QuotaRefusal { used: of([("pods", "5"), ("requests.cpu", "4")]), ..refusal };
    let two = |cpu| move |resource: &str| Some(if resource == "pods" { Quantity::ZERO } else { cpu });
    assert!(both.is_late(two(Quantity::ZERO)));
    assert!(!both.is_late(two(Quantity::from_whole(4))), "one of them has room and the other has none");
}
