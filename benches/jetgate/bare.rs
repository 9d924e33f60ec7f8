//! The bare clients: what somebody would write without jetgate, each a process of its own.

use std::sync::Arc;

use async_nats::jetstream;
use futures::StreamExt as _;
use kube::api::{Api, DynamicObject, PostParams};
use serde_json::{Value, json};
use testbed::Resource;
use testbed::process::{Process, Spec};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The first argument of a bare client.
pub(crate) const CHILD: &str = "bare-client";

/// Starts a bare client beside us.
pub(crate) fn start(arguments: &[&str], folder: &std::path::Path) -> Process {
    let program = std::env::current_exe().unwrap();
    let mut all = vec![CHILD];
    all.extend(arguments);
    Process::spawn(Spec::new("bare client", program, all, folder.join("bare.log"))).unwrap()
}

/// In the child.
pub(crate) fn run(arguments: &[String]) {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match arguments.as_slice() {
        ["acks", how, url, stream, consumer, in_flight] => {
            runtime.block_on(acks(how, url, stream, consumer, in_flight.parse().unwrap()));
        }
        ["creates", kubeconfig, namespace, count, in_flight] => {
            let (count, in_flight) = (count.parse().unwrap(), in_flight.parse().unwrap());
            runtime.block_on(creates(kubeconfig, namespace, count, in_flight));
        }
        other => panic!("no such bare client: {other:?}"),
    }
}

/// Pulls from a durable that exists, and acknowledges each message by a request, for ever.
async fn acks(how: &str, url: &str, stream: &str, consumer: &str, in_flight: usize) {
    let client = async_nats::connect(url).await.unwrap();
    let js = jetstream::new(client.clone());
    let consumer: jetstream::consumer::PullConsumer =
        js.get_stream(stream).await.unwrap().get_consumer(consumer).await.unwrap();
    let messages = consumer.stream().max_messages_per_batch(in_flight).messages().await.unwrap();
    let confirm = |message: jetstream::Message| {
        let client = client.clone();
        async move {
            let reply = message.message.reply.clone().unwrap();
            client.request(reply, "+ACK".into()).await.unwrap();
        }
    };
    match how {
        // All confirmations in the one task that pulls.
        "joined" => {
            messages.map(|message| confirm(message.unwrap())).buffer_unordered(in_flight).for_each(|()| async {}).await;
        }
        // A task for each message.
        _ => {
            let slots = Arc::new(Semaphore::new(in_flight));
            let mut messages = messages;
            while let Some(message) = messages.next().await {
                let slot = Arc::clone(&slots).acquire_owned().await.unwrap();
                let confirm = confirm(message.unwrap());
                tokio::spawn(async move {
                    confirm.await;
                    drop(slot);
                });
            }
        }
    }
}

async fn cluster(kubeconfig: &str) -> kube::Client {
    let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig).unwrap();
    let options = kube::config::KubeConfigOptions::default();
    kube::Client::try_from(kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap()).unwrap()
}

/// The object of the benchmarks, as jetgate makes it of [`crate::support::workflow_file`]'s template.
pub(crate) fn object(namespace: &str, id: usize) -> Value {
    json!({
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {
            "name": format!("order-bare{id:022}"),
            "namespace": namespace,
            "labels": {"app": "EVENTS0.order"},
            "annotations": {
                "jetgate.dev/message": format!("{namespace}/s0-creates/create-workflow/EVENTS0/{id}/1790000000000000000"),
                "jetgate.dev/credit": format!("s0-creates-0123456789abcdef/{id}"),
            },
        },
        "spec": {"entrypoint": "main", "arguments": {"parameters": [{"name": "id", "value": id.to_string()}]}},
    })
}

/// POSTs so many objects and ends.
async fn creates(kubeconfig: &str, namespace: &str, count: usize, in_flight: usize) {
    let client = cluster(kubeconfig).await;
    let api: Api<DynamicObject> = Api::namespaced_with(client, namespace, &Resource::workflows().api_resource());
    let slots = Arc::new(Semaphore::new(in_flight));
    let mut creates = JoinSet::new();
    for id in 0..count {
        let object: DynamicObject = serde_json::from_value(object(namespace, id)).unwrap();
        let slot = Arc::clone(&slots).acquire_owned().await.unwrap();
        let api = api.clone();
        creates.spawn(async move {
            loop {
                match api.create(&PostParams::default(), &object).await {
                    Ok(_) => break,
                    // Creates that race for the quota's status lose now and then.
                    Err(kube::Error::Api(status)) if status.reason == "Conflict" => {}
                    Err(error) => panic!("{error}"),
                }
            }
            drop(slot);
        });
    }
    // A create that failed fails the benchmark.
    creates.join_all().await;
}
