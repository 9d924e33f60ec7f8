//! The least program that waits for work as jetgate does, for the sizes on disk and in memory: a pull from a durable,
//! and watches of the quotas and the objects. `size` of the other benchmark starts it.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use async_nats::jetstream;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, WatchParams};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [kubeconfig, namespace, url, stream, consumer] = arguments.as_slice() else {
        println!("the bare client that `size` starts: kubeconfig, namespace, NATS URL, stream, consumer");
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(wait(kubeconfig, namespace, url, stream, consumer));
}

async fn wait(kubeconfig: &str, namespace: &str, url: &str, stream: &str, consumer: &str) {
    let nats = async_nats::connect(url).await.unwrap();
    let consumer: jetstream::consumer::PullConsumer =
        jetstream::new(nats).get_stream(stream).await.unwrap().get_consumer(consumer).await.unwrap();
    let mut messages = consumer.messages().await.unwrap();
    let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig).unwrap();
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    let client = kube::Client::try_from(config).unwrap();
    let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), namespace);
    let workflows = ApiResource::from_gvk(&GroupVersionKind::gvk("argoproj.io", "v1alpha1", "Workflow"));
    let objects: Api<DynamicObject> = Api::namespaced_with(client, namespace, &workflows);
    let all = WatchParams::default();
    let quotas = async {
        loop {
            let from = quotas.list_metadata(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
            quotas.watch(&all, &from).await.unwrap().for_each(|_| async {}).await;
        }
    };
    let objects = async {
        loop {
            let from = objects.list_metadata(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
            objects.watch_metadata(&all, &from).await.unwrap().for_each(|_| async {}).await;
        }
    };
    let messages = async { while messages.next().await.is_some() {} };
    tokio::join!(quotas, objects, messages);
}
