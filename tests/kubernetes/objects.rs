//! What is asked, and what is answered.

use crate::*;

#[tokio::test]
async fn kinds_are_found_or_the_error_says_what_is_there() {
    let cluster = admin(plane().await).await;
    assert_eq!(cluster.discover("example.com/v1", "Widget").await.unwrap(), widgets());
    assert_eq!(cluster.discover_plural("widgets", "example.com").await.unwrap(), widgets());
    let pods = cluster.discover_plural("pods", "").await.unwrap();
    assert_eq!((pods.api_version().as_str(), pods.kind.as_str(), pods.namespaced), ("v1", "Pod", true));
    assert_eq!(cluster.discover("v1", "Pod").await.unwrap(), pods);
    assert_eq!(cluster.discover("batch/v1", "Job").await.unwrap().plural, "jobs");
    assert!(!cluster.discover("v1", "Namespace").await.unwrap().namespaced);

    let said = async |api_version: &str, kind: &str| cluster.discover(api_version, kind).await.unwrap_err().to_string();
    assert_eq!(said("example.com/v1", "widget").await, "example.com/v1 has no kind \"widget\": did you mean Widget?");
    assert_eq!(said("example.com/v2", "Widget").await, "the API server serves group \"example.com\" as v1, not \"v2\"");
    assert_eq!(
        said("example.org/v1", "Widget").await,
        "the API server has no group \"example.org\": is its CustomResourceDefinition installed?"
    );
    assert_eq!(said("v2", "Pod").await, "the API server serves the core group as v1, not \"v2\"");
    let error = cluster.discover_plural("widget", "example.com").await.unwrap_err();
    assert_eq!(error.to_string(), "group \"example.com\" has no resource \"widget\": did you mean widgets?");
    assert!(matches!(cluster.discover_plural("x", "none.example").await, Err(DiscoverError::Group(_))));
}

#[tokio::test]
async fn an_object_is_created_once_found_and_listed() {
    let plane = plane().await;
    let cluster = admin(plane).await;
    let namespace = plane.namespace("create").await.unwrap();
    let before = cluster.version(&widgets(), &namespace, SOON).await.unwrap();
    assert_eq!(cluster.find(&widgets(), &namespace, "w", SOON).await.unwrap(), None);

    let made = create(&cluster, &namespace, "w").await.unwrap();
    assert_eq!((made.name.as_str(), made.message.as_deref()), ("w", Some("message of w")));
    assert_eq!(made.credit.as_deref(), Some("holder/1"));
    assert!(made.resource_version > before && !made.uid.is_empty());
    assert_eq!(cluster.find(&widgets(), &namespace, "w", SOON).await.unwrap(), Some(made.clone()));
    let (listed, version) = cluster.list(&widgets(), &namespace).await.unwrap();
    assert_eq!(listed, std::slice::from_ref(&made));
    assert!(version >= made.resource_version);
    assert!(cluster.version(&widgets(), &namespace, SOON).await.unwrap() >= made.resource_version);

    let again = create(&cluster, &namespace, "w").await.unwrap_err();
    let status = again.status().unwrap();
    assert_eq!((status.code, status.reason.as_str(), status.name.as_str()), (409, "AlreadyExists", "w"));

    let mut bad = widget("bad");
    bad["spec"]["size"] = json!("large");
    let refused = cluster.create(&widgets(), &namespace, &bad, SOON).await.unwrap_err();
    let status = refused.status().unwrap();
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    assert_eq!(status.causes.first().unwrap().field, "spec.size");

    let missing = create(&cluster, "no-such-namespace", "w").await.unwrap_err();
    assert_eq!(missing.status().unwrap().code, 404);
    let unknown = Kind { plural: "gadgets".to_owned(), ..widgets() };
    let not_served = cluster.find(&unknown, &namespace, "w", SOON).await.unwrap_err();
    assert_eq!(not_served.status().unwrap().code, 404, "a kind that is not served is no absent object");
}

#[tokio::test]
async fn quotas_are_read_and_refuse() {
    let plane = plane().await;
    let cluster = admin(plane).await;
    let namespace = plane.namespace("quota").await.unwrap();
    let key = Resource::widgets().quota_key();
    let resource = ResourceName::new(&key).unwrap();
    let (none, from) = cluster.list_quotas(&namespace).await.unwrap();
    assert!(none.is_empty());

    plane.quota(&namespace, "q", &[(&key, "1"), ("requests.cpu", "1500m")]).await.unwrap();
    let (mut quotas, _) = cluster.list_quotas(&namespace).await.unwrap();
    let quota = quotas.pop().unwrap().unwrap();
    assert_eq!(quota.reading(&resource).unwrap().hard, Quantity::from_whole(1));
    assert!(!quota.scoped);
    create(&cluster, &namespace, "a").await.unwrap();

    // A quota is not strict: `used` may fall behind for a moment, and then another one fits.
    let mut refused = None;
    for other in 0..20 {
        refused = create(&cluster, &namespace, &format!("b-{other}")).await.err();
        if refused.is_some() {
            break;
        }
    }
    let refused = refused.expect("twenty objects under a quota of one");
    let status = refused.status().unwrap();
    assert_eq!((status.code, status.reason.as_str()), (403, "Forbidden"));
    let target =
        CreateTarget { group: "example.com".to_owned(), plural: "widgets".to_owned(), kind: "Widget".to_owned() };
    let class = format!("{:?}", classify(status, &target));
    assert!(class.contains("quota: \"q\""), "{class}");

    let mut events = cluster.watch_quotas(&namespace, from, WATCH).await.unwrap();
    let full = async {
        loop {
            if let QuotaEvent::Applied(quota) = events.next().await.unwrap().unwrap()
                && quota.unwrap().reading(&resource).is_ok_and(|reading| reading.used >= Quantity::from_whole(1))
            {
                break;
            }
        }
    };
    tokio::time::timeout(SOON, full).await.unwrap();
    plane.delete_quota(&namespace, "q").await.unwrap();
    let gone = async {
        while !matches!(
            events.next().await.unwrap().unwrap(),
            QuotaEvent::Deleted { name, uid, .. } if name == "q" && uid == quota.uid
        ) {}
    };
    tokio::time::timeout(SOON, gone).await.unwrap();
}

#[tokio::test]
async fn a_watch_tells_what_came_and_went_since_an_old_version() {
    let plane = plane().await;
    let cluster = admin(plane).await;
    let namespace = plane.namespace("watch").await.unwrap();
    let stays = create(&cluster, &namespace, "stays").await.unwrap();
    let from = cluster.version(&widgets(), &namespace, SOON).await.unwrap();
    let goes = create(&cluster, &namespace, "goes").await.unwrap();
    plane.delete(&Resource::widgets(), &namespace, "goes").await.unwrap();
    // Something else moves the store on.
    let elsewhere = plane.namespace("elsewhere").await.unwrap();
    let now = cluster.version(&widgets(), &namespace, SOON).await.unwrap();

    let begun = Instant::now();
    let events = watched(&cluster, &namespace, from, WATCH).await;
    assert!(begun.elapsed() < Duration::from_secs(7), "{:?}", begun.elapsed());
    let [ObjectEvent::Applied(applied), ObjectEvent::Deleted(deleted), rest @ ..] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!(applied, &goes);
    assert_eq!((deleted.uid.as_str(), deleted.message.as_deref()), (goes.uid.as_str(), Some("message of goes")));
    assert!(deleted.resource_version > goes.resource_version);
    // The bookmark before the end brings the watch to where the list was, though nothing happened to the kind.
    let [.., ObjectEvent::Bookmark(version)] = rest else { panic!("no bookmark: {events:?}") };
    assert!(*version >= now, "{version} < {now}");

    let all = watched(&cluster, &namespace, 0, Duration::from_secs(1)).await;
    assert_eq!(all.first(), Some(&ObjectEvent::Applied(stays)));
    drop(elsewhere);
}

#[tokio::test]
async fn what_rights_forbid_is_refused() {
    let plane = plane().await;
    let namespace = plane.namespace("rights").await.unwrap();
    let rules = json!([{"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["get"]}]);
    let account = plane.service_account(&namespace, "reader", &rules).await.unwrap();
    let token = plane.sign_token(&account, Duration::from_secs(3600)).unwrap();
    let cluster = connect(plane.kubeconfig(&Login::Token(token)).unwrap()).await;
    assert_eq!(cluster.find(&widgets(), &namespace, "w", SOON).await.unwrap(), None);
    assert_eq!(cluster.discover("example.com/v1", "Widget").await.unwrap(), widgets());
    let refused = [
        create(&cluster, &namespace, "w").await.unwrap_err(),
        cluster.list(&widgets(), &namespace).await.unwrap_err(),
        cluster.version(&widgets(), &namespace, SOON).await.unwrap_err(),
        cluster.watch(&widgets(), &namespace, 0, WATCH).await.map(|_| ()).unwrap_err(),
        cluster.watch_quotas(&namespace, 0, WATCH).await.map(|_| ()).unwrap_err(),
        cluster.get_lease(&namespace, "l", SOON).await.unwrap_err(),
    ];
    for error in refused {
        let status = error.status().unwrap();
        assert_eq!((status.code, status.reason.as_str()), (403, "Forbidden"));
        assert!(status.message.contains("system:serviceaccount"), "{}", status.message);
    }
}

#[tokio::test]
async fn long_lists_are_paged_and_connections_are_kept() {
    const OBJECTS: usize = 2_500;
    const AT_ONCE: usize = 100;
    let plane = plane().await;
    let namespace = plane.namespace("many").await.unwrap();
    let proxy = FaultProxy::start(plane.apiserver().address()).await.unwrap();
    let cluster = connect(plane.kubeconfig_at(&Login::Admin, &proxy.url("https")).unwrap()).await;
    let begun = Instant::now();
    let made: Vec<_> = futures::stream::iter(0..OBJECTS)
        .map(|number| {
            let (cluster, namespace) = (&cluster, &namespace);
            async move { create(cluster, namespace, &format!("w-{number}")).await.unwrap() }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    eprintln!("{OBJECTS} creates in {:?}, {} connections", begun.elapsed(), proxy.connections());
    // hyper opens one more now and then, when a connection frees up while another one is being made.
    assert!(proxy.connections() <= 2 * AT_ONCE as u64, "{} connections", proxy.connections());

    let begun = Instant::now();
    let (mut listed, version) = cluster.list(&widgets(), &namespace).await.unwrap();
    eprintln!("listed in {:?}", begun.elapsed());
    let newest = made.iter().map(|sight| sight.resource_version).max().unwrap();
    assert!(version >= newest);
    let mut made = made;
    made.sort_by(|a, b| a.name.cmp(&b.name));
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(made == listed, "every object, once, as it was made");
}

#[tokio::test]
async fn a_lease_is_written_only_by_who_saw_it_last() {
    let plane = plane().await;
    let cluster = admin(plane).await;
    let namespace = plane.namespace("lease").await.unwrap();
    let claim = |holder: &str, transitions| LeaseClaim {
        holder: holder.to_owned(),
        duration: Duration::from_secs(6),
        transitions,
        acquired: None,
    };
    assert_eq!(cluster.get_lease(&namespace, "l", SOON).await.unwrap(), None);
    let LeaseWrite::Done(a) = cluster.create_lease(&namespace, "l", &claim("a", 0), SOON).await.unwrap() else {
        panic!("conflict")
    };
    assert_eq!((a.holder.as_str(), a.duration, a.transitions), ("a", Duration::from_secs(6), 0));
    assert!(a.acquired.is_some() && a.renewed.is_some());
    assert_eq!(cluster.get_lease(&namespace, "l", SOON).await.unwrap(), Some(a.clone()));
    let again = cluster.create_lease(&namespace, "l", &claim("b", 0), SOON).await.unwrap();
    assert_eq!(again, LeaseWrite::Conflict);

    // Ten at once with the same version: one wins.
    let claims: Vec<_> = (0..10).map(|number| claim(&format!("c{number}"), 1)).collect();
    let writes = claims.iter().map(|claim| cluster.replace_lease(&namespace, "l", a.resource_version, claim, SOON));
    let won: Vec<_> = join_all(writes)
        .await
        .into_iter()
        .filter_map(|write| match write.unwrap() {
            LeaseWrite::Done(view) => Some(view),
            LeaseWrite::Conflict => None,
        })
        .collect();
    assert_eq!(won.len(), 1);
    assert_eq!(cluster.get_lease(&namespace, "l", SOON).await.unwrap().as_ref(), won.first());

    let kept = LeaseClaim { acquired: won[0].acquired, ..claim("", 1) };
    let write = cluster.replace_lease(&namespace, "l", won[0].resource_version, &kept, SOON).await.unwrap();
    let LeaseWrite::Done(freed) = write else { panic!("conflict") };
    assert_eq!((freed.holder.as_str(), freed.acquired), ("", won[0].acquired));
    let leases = Resource::new("coordination.k8s.io", "v1", "Lease", "leases");
    plane.delete(&leases, &namespace, "l").await.unwrap();
    // The API server makes a Lease that is put and not there; so two who put at once still see one winner.
    let writes = claims.iter().map(|claim| cluster.replace_lease(&namespace, "l", freed.resource_version, claim, SOON));
    let writes = join_all(writes).await;
    let won = writes.into_iter().filter(|write| matches!(write.as_ref().unwrap(), LeaseWrite::Done(_))).count();
    assert_eq!(won, 1);
}
