//! Settings that name something outside of them, and what is wrong with that: one line that names the variable, the
//! value unless it is a secret, and what is allowed.

use std::path::{Path, PathBuf};

use testbed::certs::Authority;

use crate::input::{GOOD, refused};

/// Whatever holds it must not be shown.
const SECRET: &str = "s3cret-s3cret";

fn write(folder: &Path, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn a_grace_out_of_bounds() {
    for value in ["0s", "999ms", "61m"] {
        let line = format!("SHUTDOWN_GRACE: `{value}` is out of range; allowed is 1s to 1h");
        refused(GOOD, &[("SHUTDOWN_GRACE", value)], &[&line]).await;
    }
    let line = "SHUTDOWN_GRACE: `25` is not allowed; allowed is a duration such as 500ms, 10s or 5m";
    refused(GOOD, &[("SHUTDOWN_GRACE", "25")], &[line]).await;
}

/// What the platform says counts where a setting does not; a bad one is not passed over for the next that says something.
#[tokio::test]
async fn what_the_platform_says_is_looked_at_too() {
    let folder = tempfile::tempdir().unwrap();
    let config = "{apiVersion: v1, kind: Config, clusters: [], users: [], current-context: a, contexts: [{name: a, context: \
        {cluster: c, user: u, namespace: Team_A}}]}";
    let config = write(folder.path(), "config", config);
    let label = "is not a DNS label: 1 to 63 lower-case letters, digits and `-` are allowed, with a letter or digit at both ends";
    let open = ("BACKPRESSURE_QUOTA_NAMESPACE", "");
    let line = format!("POD_NAMESPACE: `Team_A` {label}");
    refused(GOOD, &[open, ("POD_NAMESPACE", "Team_A")], &[&line]).await;
    let line = format!("the namespace of KUBECONFIG's context: `Team_A` {label}");
    refused(GOOD, &[open, ("KUBECONFIG", config.to_str().unwrap())], &[&line]).await;
    let line = "RUST_LOG=\"jetgate=loud\": no log filter; allowed is a level (off, error, warn, info, debug, trace) or \
        target=level, separated by commas: error parsing level filter: expected one of \"off\", \"error\", \"warn\", \"info\", \
        \"debug\", \"trace\", or a number 0-5";
    refused(GOOD, &[("RUST_LOG", "jetgate=loud")], &[line]).await;
}

#[tokio::test]
async fn a_sensor_file_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let latin = write(folder.path(), "latin", b"name: caf\xe9\n");
    let table = [
        (latin, "stream did not contain valid UTF-8"),
        (folder.path().to_owned(), "Is a directory (os error 21)"),
        // There, and readable by nobody, whoever asks.
        (PathBuf::from("/proc/self/mem"), "Input/output error (os error 5)"),
    ];
    for (path, why) in table {
        let path = path.to_str().unwrap();
        let line = format!("SENSOR_FILE: cannot read {path}: {why}; allowed is the path of a YAML file in UTF-8");
        refused(GOOD, &[("SENSOR_FILE", path)], &[&line]).await;
    }
}

#[tokio::test]
async fn a_kubeconfig_that_is_missing_empty_or_rubbish() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = |context: &str| {
        format!(
            "{{apiVersion: v1, kind: Config, clusters: [{{name: c, cluster: {{certificate-authority-data: x, server: \
             'https://localhost'}}}}], users: [], current-context: {context}, contexts: [{{name: a, context: {{cluster: \
             c, user: u}}}}]}}"
        )
    };
    let at = |name: &str, text: &str| write(folder.path(), name, text);
    let table = [
        (folder.path().join("nowhere"), "cannot be read: No such file or directory (os error 2)"),
        (folder.path().to_owned(), "cannot be read: Is a directory (os error 21)"),
        (at("empty", " \n"), "is empty"),
        (at("rubbish", SECRET), "cannot be used: line 1, column 1 of the kubeconfig is no part of such a file"),
        (
            at("list", &format!("apiVersion: v1\nkind: Config\nusers: {SECRET}\n")),
            "cannot be used: line 3, column 8 of the kubeconfig is no part of such a file",
        ),
        (at("bare", "apiVersion: v1\nkind: Config\n"), "cannot be used: failed to determine current context"),
        (at("context", &cluster("b")), "cannot be used: failed to load current context: b"),
    ];
    for (path, why) in table {
        let path = path.to_str().unwrap();
        let line = format!(
            "KUBECONFIG: {path} {why}; allowed is the path of one kubeconfig whose current context names a cluster"
        );
        refused(GOOD, &[("KUBECONFIG", path)], &[&line]).await;
    }
}

#[tokio::test]
async fn a_file_for_nats_that_is_missing_empty_or_rubbish() {
    let folder = tempfile::tempdir().unwrap();
    let empty = write(folder.path(), "empty", "\n");
    let rubbish = write(folder.path(), "rubbish", format!("{SECRET}\n"));
    let nowhere = folder.path().join("nowhere");
    let [nowhere, empty, rubbish] = [&nowhere, &empty, &rubbish].map(|path| path.to_str().unwrap());
    let creds = "the text of a credentials file, user JWT and seed";
    let seed = "the seed of a user, 58 characters that begin with SU";
    for (variable, what) in [
        ("NATS_CREDS_FILE", creds),
        ("NATS_NKEY_FILE", seed),
        ("NATS_TOKEN_FILE", "the token"),
        ("NATS_PASSWORD_FILE", "the password"),
        ("NATS_CA_FILE", "one or more certificates in PEM"),
    ] {
        let user = if variable == "NATS_PASSWORD_FILE" { "me" } else { "" };
        for (path, why) in [(nowhere, "cannot be read: No such file or directory (os error 2)"), (empty, "is empty")] {
            let line = format!("{variable}: {path} {why}; allowed is a file with {what}");
            refused(GOOD, &[(variable, path), ("NATS_USER", user)], &[&line]).await;
        }
    }
    let line = format!(
        "NATS_CREDS_FILE: {rubbish} cannot be used: the credentials hold no user JWT; allowed is a file with {creds}"
    );
    refused(GOOD, &[("NATS_CREDS_FILE", rubbish)], &[&line]).await;
    let line = format!(
        "NATS_NKEY_FILE: {rubbish} cannot be used: the credentials hold no seed; allowed is a file with {seed}"
    );
    refused(GOOD, &[("NATS_NKEY_FILE", rubbish)], &[&line]).await;
    // What was meant to be a secret is not taken for a path and shown as one.
    let line = format!(
        "NATS_CREDS: the value, which is not shown, cannot be read: No such file or directory (os error 2); allowed is \
         {creds}, or the path of a file with that"
    );
    refused(GOOD, &[("NATS_CREDS", SECRET)], &[&line]).await;
}

#[tokio::test]
async fn certificates_and_keys_that_are_rubbish_or_do_not_belong_together() {
    let authority = Authority::new("nats").unwrap();
    let good = authority.client("sensor", None).unwrap();
    let other = authority.client("other", None).unwrap();
    let pem = |kind: &str| format!("-----BEGIN {kind}-----\naGVsbG8=\n-----END {kind}-----\n");
    let folder = tempfile::tempdir().unwrap();
    let rubbish = write(folder.path(), "rubbish", SECRET);
    let rubbish = rubbish.to_str().unwrap();
    let (cert, key) = (("NATS_CERT", good.certificate.as_str()), ("NATS_KEY", good.key.as_str()));
    let whole = |kind| pem(kind);
    let (false_cert, false_key) = (whole("CERTIFICATE"), whole("PRIVATE KEY"));
    let authorities = "one or more certificates in PEM";
    let chain = "a certificate in PEM, those between it and its authority behind it";
    let secret = "the certificate's private key in PEM";
    let or_path = ", or the path of a file with that";
    let table: [(&[(&str, &str)], String); 9] = [
        (
            &[("NATS_CA_FILE", rubbish)],
            format!(
                "NATS_CA_FILE: {rubbish} cannot be used: it holds no certificate; allowed is a file with {authorities}"
            ),
        ),
        (
            &[("NATS_CA", rubbish)],
            format!("NATS_CA: {rubbish} cannot be used: it holds no certificate; allowed is {authorities}{or_path}"),
        ),
        (
            &[("NATS_CA", &false_cert)],
            format!(
                "NATS_CA: the value, which is not shown, cannot be used: invalid peer certificate: BadEncoding; allowed \
                 is {authorities}{or_path}"
            ),
        ),
        (
            &[("NATS_CERT_FILE", rubbish), key],
            format!(
                "NATS_CERT_FILE: {rubbish} cannot be used: it holds no certificate; allowed is a file with {chain}"
            ),
        ),
        (
            &[("NATS_CERT", &false_cert), key],
            format!(
                "NATS_CERT: the value, which is not shown, cannot be used: invalid peer certificate: BadEncoding; \
                 allowed is {chain}{or_path}"
            ),
        ),
        (
            &[cert, ("NATS_KEY_FILE", rubbish)],
            format!(
                "NATS_KEY_FILE: {rubbish} cannot be used: it holds no private key: there are no such BEGIN and END \
                 lines; allowed is a file with {secret}"
            ),
        ),
        (
            &[cert, ("NATS_KEY", &false_key)],
            format!(
                "NATS_KEY: the value, which is not shown, cannot be used: it is no private key of a kind that is known \
                 here (RSA, ECDSA on P-256 or P-384, Ed25519); allowed is {secret}{or_path}"
            ),
        ),
        (
            &[cert, ("NATS_KEY", &other.key)],
            format!(
                "NATS_KEY: the value, which is not shown, cannot be used: it is the key of another certificate; allowed \
                 is {secret}{or_path}"
            ),
        ),
        (&[key], "NATS_CERT: it is needed, because NATS_KEY is set".to_owned()),
    ];
    for (env, line) in table {
        refused(GOOD, env, &[&line]).await;
    }
}

/// Where a path is wanted people give the content now and then, and keys lose their line ends in variables.
#[tokio::test]
async fn a_secret_in_the_wrong_place_or_form_is_not_shown() {
    let authority = Authority::new("nats").unwrap();
    let good = authority.client("sensor", None).unwrap();
    let cert = ("NATS_CERT", good.certificate.as_str());
    let (joined, escaped) = (good.key.replace('\n', " "), good.key.replace('\n', "\\n"));
    let headless = good.key.replacen('\n', "", 1);
    for (key, why) in [
        (&joined, "an END line is missing, or stands on the line of another"),
        (&escaped, "a BEGIN line is not alone on its line"),
        (&headless, "a BEGIN line is not alone on its line"),
    ] {
        let line = format!(
            "NATS_KEY: the value, which is not shown, cannot be used: it holds no private key: {why}; allowed is the \
             certificate's private key in PEM, or the path of a file with that"
        );
        refused(GOOD, &[cert, ("NATS_KEY", key)], &[&line]).await;
    }
    let missing = "the value, which is not shown, cannot be read: No such file or directory (os error 2); allowed is";
    let seed = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
    let line = format!("NATS_NKEY_FILE: {missing} a file with the seed of a user, 58 characters that begin with SU");
    refused(GOOD, &[("NATS_NKEY_FILE", seed)], &[&line]).await;
    let line = format!("NATS_TOKEN_FILE: {missing} a file with the token");
    refused(GOOD, &[("NATS_TOKEN_FILE", SECRET)], &[&line]).await;
    let kubeconfig = format!("KUBECONFIG: {missing} the path of one kubeconfig whose current context names a cluster");
    for text in
        [format!("users:\n- user: {{token: {SECRET}}}\n"), format!("{{users: [{{user: {{token: {SECRET}}}}}]}}")]
    {
        refused(GOOD, &[("KUBECONFIG", &text)], &[&kubeconfig]).await;
    }
    let line = format!(
        "NATS_CERT: {missing} a certificate in PEM, those between it and its authority behind it, or the path of a file \
         with that"
    );
    refused(GOOD, &[("NATS_CERT", SECRET), ("NATS_KEY", good.key.as_str())], &[&line]).await;
    let folder = tempfile::tempdir().unwrap();
    let latin = write(folder.path(), "latin", b"caf\xe9s");
    let latin = latin.to_str().unwrap();
    let line = format!(
        "NATS_TOKEN_FILE: {latin} cannot be used: invalid utf-8 sequence of 1 bytes from index 3; allowed is a file with \
         the token"
    );
    refused(GOOD, &[("NATS_TOKEN_FILE", latin)], &[&line]).await;
}
