//! The referee's summary, and which promises were broken.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use testbed::{Resource, Verdict, wait};

use crate::failure::{Failure, Result};
use crate::options::Fault;
use crate::screen::Screen;
use crate::stage::{CAUSE, DEAD_LETTERS, Stage};
use crate::story::Told;

const SOON: Duration = Duration::from_secs(10);

pub(crate) struct Judgement {
    verdict: Verdict,
    messages: usize,
    limit: usize,
    codes: BTreeMap<u16, usize>,
    dead_letters: u64,
    blocked: BTreeMap<String, f64>,
    began: Duration,
    took: Duration,
    seed: u64,
    // Whether connections to the API server were.
    was_cut: bool,
    broken: Vec<String>,
}

pub(crate) async fn judge(stage: &Stage, told: Told) -> Result<Judgement> {
    let resource = Resource::workflows();
    // The audit log is the second witness of every object; the watch may be a moment behind it. Where it does not catch
    // up, that is said below.
    let agree = wait::until_true("the referee's watch to catch up", SOON, || async {
        stage.verdict().is_ok_and(|verdict| verdict.posts_201 <= verdict.created)
    });
    agree.await.ok();
    let verdict = stage.verdict()?;
    let dead_letters = dead_letters(stage).await?;
    let (messages, limit) = (stage.options.count(), stage.options.limit());
    let mut broken: Vec<String> = told.stuck.into_iter().collect();
    for (what, list) in
        [("lost", &verdict.lost), ("doubled", &verdict.doubled), ("created for no message", &verdict.unexpected)]
    {
        if !list.is_empty() {
            let some: Vec<&str> = list.iter().take(10).map(String::as_str).collect();
            let more = if list.len() > some.len() { ", ..." } else { "" };
            broken.push(format!("{} {what}: {}{more}", list.len(), some.join(", ")));
        }
    }
    if verdict.foreign > 0 {
        broken.push(format!("{} objects without the annotation {CAUSE}", verdict.foreign));
    }
    // The other way round is no harm: a cut request is answered with 504 for the log, and its object may be there.
    if verdict.posts_201 > verdict.created {
        broken.push(format!(
            "the API server says that it created {}, the referee's watch saw only {}",
            verdict.posts_201, verdict.created
        ));
    }
    if verdict.most_alive > limit {
        broken.push(format!("{} were alive at once, above the limit of {limit}", verdict.most_alive));
    }
    if dead_letters > 0 {
        broken.push(format!("{dead_letters} dead letters in {DEAD_LETTERS}"));
    }
    if told.last.waiting != Some(0) {
        broken.push(match told.last.waiting {
            Some(count) => format!("{count} messages are not acknowledged"),
            None => "how many messages are not acknowledged is unknown".to_owned(),
        });
    }
    broken.extend(told.bad_end);
    Ok(Judgement {
        verdict,
        messages,
        limit,
        codes: stage.plane.audit(stage.namespace())?.post_codes(&resource, stage.namespace()),
        dead_letters,
        blocked: told.last.blocked.by_reason().into_iter().filter(|(_, seconds)| *seconds >= 0.05).collect(),
        began: told.began,
        took: told.took,
        seed: stage.options.seed,
        was_cut: stage.options.breaks(Fault::Api),
        broken,
    })
}

/// What an answer to a create means here.
fn meaning(code: u16) -> &'static str {
    match code {
        201 => " (created)",
        403 => " (refused by the quota)",
        409 => " (exists already, or another was first at the quota)",
        504 => " (cut; the object may be there)",
        _ => "",
    }
}

async fn dead_letters(stage: &Stage) -> Result<u64> {
    use async_nats::jetstream::ErrorCode;
    use async_nats::jetstream::context::GetStreamErrorKind;
    match stage.jetstream.get_stream(DEAD_LETTERS).await {
        Ok(stream) => Ok(stream.cached_info().state.messages),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(answer) if answer.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(0),
            GetStreamErrorKind::JetStream(_)
            | GetStreamErrorKind::EmptyName
            | GetStreamErrorKind::Request
            | GetStreamErrorKind::InvalidStreamName => {
                Err(Failure::new(format!("the stream of dead letters cannot be read: {error}")))
            }
        },
    }
}

impl Judgement {
    pub(crate) fn is_kept(&self) -> bool {
        self.broken.is_empty()
    }

    pub(crate) fn print(&self, screen: &Screen, as_json: bool) -> Result<()> {
        let verdict = &self.verdict;
        let total: f64 = self.blocked.values().sum();
        let reasons: Vec<String> =
            self.blocked.iter().map(|(reason, seconds)| format!("{reason} {seconds:.1} s")).collect();
        let reasons = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
        let codes: Vec<String> =
            self.codes.iter().map(|(code, count)| format!("{count} x {code}{}", meaning(*code))).collect();
        screen.say("");
        screen.say(&format!(
            "referee: {} created, {} lost, {} doubled, most alive at once {}, blocked for {total:.1} s, {} refusals",
            verdict.created,
            verdict.lost.len(),
            verdict.doubled.len(),
            verdict.most_alive,
            verdict.refusals_403
        ));
        screen.say(&format!(
            "  messages   {} published, the first one {:.1} s after the start, {} dead letters, last one acknowledged {:.1} s later",
            self.messages,
            self.began.as_secs_f64(),
            self.dead_letters,
            self.took.as_secs_f64()
        ));
        screen.say(&format!(
            "  alive      at most {} of {} allowed, by watch and quorum lists",
            verdict.most_alive, self.limit
        ));
        screen.say(&format!(
            "  requests   {} creates on the wire by the audit log: {}",
            verdict.posts,
            codes.join(", ")
        ));
        screen.say(&format!("  blocked    {total:.1} s by the sensor's own count{reasons}"));
        if verdict.refusals_403 > 0 && self.was_cut {
            screen.say(
                "  refusals   the API server charges the quota for cut requests, until the quota controller counts again; the \
                 messages are tried again",
            );
        }
        if self.broken.is_empty() {
            screen.good(&format!("every promise was kept ({:.0} s in all)", screen.elapsed().as_secs_f64()));
        } else {
            for broken in &self.broken {
                screen.bad(&format!("BROKEN: {broken}"));
            }
            screen.bad(&format!("{} broken promises, seed {}", self.broken.len(), self.seed));
        }
        if as_json {
            writeln!(std::io::stdout(), "{:#}", self.json())?;
        }
        Ok(())
    }

    fn json(&self) -> Value {
        json!({
            "kept": self.is_kept(),
            "broken": self.broken,
            "messages": self.messages,
            "limit": self.limit,
            "created": self.verdict.created,
            "lost": self.verdict.lost,
            "doubled": self.verdict.doubled,
            "most_alive": self.verdict.most_alive,
            "refusals": self.verdict.refusals_403,
            "posts": self.codes,
            "dead_letters": self.dead_letters,
            "blocked_seconds": self.blocked,
            "seconds_to_first_message": self.began.as_secs_f64(),
            "seconds": self.took.as_secs_f64(),
            "seed": self.seed,
        })
    }
}
