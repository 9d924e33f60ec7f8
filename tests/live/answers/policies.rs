//! Admission policies and webhooks of the cluster, real ones: what they refuse waits until they let it through.

use jetgate::message::retry;
use kube::api::{Api, DeleteParams, DynamicObject, PostParams};
use serde_json::json;
use testbed::{ControlPlane, HttpFaultProxy, Nats};

use super::*;
use crate::reasons::open;

const GROUP: &str = "admissionregistration.k8s.io";
/// A policy chooses its reason, and with it the code. These are all that there are.
const REASONS: [&str; 3] = ["Invalid", "Forbidden", "RequestEntityTooLarge"];
/// The codes of what is refused, the webhook's last.
const CODES: [u16; 4] = [422, 403, 413, 500];
/// The message whose object a webhook must see that does not answer.
const UNSEEN: usize = REASONS.len();
const MESSAGES: usize = UNSEEN + 3;

/// In CEL: this is the object of the message with this id.
fn is(id: usize) -> String {
    format!("object.spec.?arguments.parameters[?0].value.orValue('') == '{id}'")
}

/// Where policy and webhook look: at the stage, and where the test tries whether they do.
fn within(stage: &Stage<'_>, beside: &str) -> Value {
    let names = [stage.namespace.as_str(), beside];
    json!({"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": names}]})
}

fn rules() -> Value {
    json!([{
        "apiGroups": ["argoproj.io"], "apiVersions": ["v1alpha1"], "resources": ["workflows"],
        "operations": ["CREATE"],
    }])
}

/// Denies the first messages, each with a reason of its own.
async fn policy(stage: &Stage<'_>, beside: &str) {
    let name = &stage.namespace;
    let validation = |(id, reason): (usize, &&str)| {
        let denies = format!("!({})", is(id));
        json!({"expression": denies, "message": "exceeded quota: none", "reason": reason})
    };
    let validations: Vec<Value> = REASONS.iter().enumerate().map(validation).collect();
    let policy = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {"matchConstraints": {"resourceRules": rules()}, "validations": validations},
    });
    stage.plane.apply(&policy).await.unwrap();
    let binding = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {
            "policyName": name,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": within(stage, beside)},
        },
    });
    stage.plane.apply(&binding).await.unwrap();
}

/// Has to be asked about one message, where nobody listens.
async fn webhook(stage: &Stage<'_>, beside: &str) {
    let away = testbed::ports::Port::reserve().unwrap();
    let webhook = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": stage.namespace},
        "webhooks": [{
            "name": "away.example.com",
            "clientConfig": {"url": format!("https://{}/", away.address())},
            "rules": rules(),
            "namespaceSelector": within(stage, beside),
            "matchConditions": [{"name": "one", "expression": is(UNSEEN)}],
            "failurePolicy": "Fail",
            "sideEffects": "None",
            "timeoutSeconds": 1,
            "admissionReviewVersions": ["v1"],
        }],
    });
    stage.plane.apply(&webhook).await.unwrap();
}

async fn delete(stage: &Stage<'_>, kind: &str, plural: &str) {
    let resource = Resource::new(GROUP, "v1", kind, plural);
    let objects: Api<DynamicObject> = Api::all_with(stage.plane.client().await.unwrap(), &resource.api_resource());
    objects.delete(&stage.namespace, &DeleteParams::default()).await.unwrap();
}

/// What the API server says to such an object, without making it.
async fn answer(plane: &ControlPlane, namespace: &str, id: usize) -> Option<(u16, String)> {
    let mut object = Resource::workflows().object("probe");
    object["spec"] = json!({"arguments": {"parameters": [{"name": "id", "value": id.to_string()}]}});
    let objects = plane.objects(&Resource::workflows(), namespace).await.unwrap();
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    match objects.create(&dry, &serde_json::from_value(object).unwrap()).await {
        Err(kube::Error::Api(status)) => Some((status.code, status.message)),
        Ok(_) | Err(_) => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_policies_and_webhooks_refuse_waits_for_them_and_holds_up_nothing_else() {
    let plane = ControlPlane::shared().await.unwrap();
    let proxy = HttpFaultProxy::start(plane).await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "policies", "20").await;
    stage.behind(&proxy).await;
    let book = Book::open(&proxy, &stage);
    let beside = plane.namespace("beside").await.unwrap();
    tokio::join!(policy(&stage, &beside), webhook(&stage, &beside));
    for (id, code) in CODES.into_iter().enumerate() {
        let words = if id == UNSEEN { "failed calling webhook" } else { "is forbidden: ValidatingAdmissionPolicy '" };
        let holds = || async {
            matches!(answer(plane, &beside, id).await, Some((said, text)) if said == code && text.contains(words))
        };
        let heard = wait::until_true(&format!("{code} for {id}"), LONG, holds).await;
        if let Err(error) = heard {
            panic!("{error}; it is {:?}", answer(plane, &beside, id).await);
        }
    }
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    sensor.until_reason(None).await;
    stage.publish(0..MESSAGES).await;
    let free = MESSAGES - UNSEEN - 1;
    referee.until_created(free, LONG).await.unwrap();
    let tried = |times| {
        let calls = book.calls();
        move || (0..=UNSEEN).all(|id| calls.get(&id).is_some_and(|calls| post_times(calls).len() >= times))
    };
    sensor.until("each was tried three times", async || tried(3)()).await;
    stage.keeps(UNSEEN as u64 + 1).await;
    assert_eq!(sensor.reason().await, None, "no policy and no webhook blocks the gate");
    delete(&stage, "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings").await;
    delete(&stage, "ValidatingAdmissionPolicy", "validatingadmissionpolicies").await;
    delete(&stage, "ValidatingWebhookConfiguration", "validatingwebhookconfigurations").await;
    let verdict = stage.until_exact(&referee, &sensor, MESSAGES).await;
    println!("{verdict}");
    let (calls, ids) = (book.calls(), stage.message_ids().await);
    let refused = |id: usize| post_times(&calls[&id]).len() - 1;
    for id in 0..UNSEEN {
        came_back_later_and_later(&calls[&id], &ids[&id], retry::delay);
        looked_up_before_each_further_create(&calls[&id], Duration::ZERO);
    }
    delays_differ(&ids, 0..UNSEEN);
    looked_up_before_each_further_create(&calls[&UNSEEN], P / 2);
    let other = (0..UNSEEN).map(refused).sum();
    sensor.only_refusals(&[("other", other), ("unavailable", refused(UNSEEN))]).await;
    assert_eq!((sensor.effects("refused").await, sensor.effects("doubtful").await), (other, refused(UNSEEN)));
    assert_eq!(sensor.effects("done").await, MESSAGES);
    // By the API server's own count, too.
    let codes = plane.audit(&stage.namespace).unwrap().post_codes(&Resource::workflows(), &stage.namespace);
    let expected = CODES.into_iter().enumerate().map(|(id, code)| (code, refused(id)));
    for (code, count) in expected.chain([(201, MESSAGES)]) {
        assert_eq!(codes.get(&code).copied().unwrap_or_default(), count, "{code}");
    }
    open(&sensor).await;
    assert_eq!(sensor.stop().await, Some(0));
}
