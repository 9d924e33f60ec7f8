//! One expression: compiled once, evaluated on messages.

use std::sync::{Arc, LazyLock};

use cel::common::types::{CelMap, CelMapKey, CelString};
use cel::{Context, Env, Program, extensions};
use serde_json::{Map, Value};

use super::checks::{self, Needs};
use super::error::{Cause, TemplateProblem, shortened};
use super::event::{Data, Event};
use super::functions::FIELDS;
use super::values::{self, Budget, Cel};
use super::{MAX_EXPRESSION_BYTES, MAX_LOOP_ROUNDS, MAX_LOOP_TEXT_BYTES};

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    // An extension that could not be added shows in the test that evaluates every function of the table.
    env.add_extension(extensions::strings).ok();
    env.add_extension(extensions::lists).ok();
    Arc::new(env)
});

#[derive(Debug)]
pub(super) struct Expression {
    pub(super) source: String,
    needs: Needs,
    form: Form,
}

#[derive(Debug)]
enum Form {
    /// `event.data.a.b`, by far the most frequent: read without the evaluator, which would turn all of the data into
    /// its own values first.
    Path(Vec<String>),
    Program(Program),
}

impl Expression {
    /// Compiles; needs the stack of [`super::stack::parsing`].
    pub(super) fn compile(source: &str) -> Result<Self, TemplateProblem> {
        if source.is_empty() {
            return Err(TemplateProblem::Empty);
        }
        if source.len() > MAX_EXPRESSION_BYTES {
            return Err(TemplateProblem::TooLong(source.len()));
        }
        let program = ENV.compile(source).map_err(|errors| syntax(&errors))?;
        let context = Context::with_env(Arc::clone(&ENV));
        let needs = checks::check(program.expression(), &context)?;
        let form = checks::event_path(program.expression()).map_or(Form::Program(program), Form::Path);
        Ok(Self { source: source.to_owned(), needs, form })
    }

    /// Levels of recursion that evaluating it takes.
    pub(super) const fn depth(&self) -> usize {
        match &self.form {
            Form::Path(_) => 1,
            Form::Program(_) => self.needs.depth,
        }
    }

    pub(super) fn evaluate(&self, scope: &mut Scope<'_, '_>, budget: &mut Budget) -> Result<Value, Cause> {
        match &self.form {
            Form::Path(path) => {
                let found = scope.find(path)?;
                let value = found.as_value();
                budget.take_value(&value)?;
                Ok(value.into_owned())
            }
            Form::Program(program) => {
                self.bound_loops(scope.event)?;
                let result = program.execute(scope.context(&self.needs)?)?;
                values::from_cel(&result, budget)
            }
        }
    }

    #[cfg(test)]
    pub(super) fn by_program(source: &str) -> Self {
        let program = ENV.compile(source).unwrap();
        let needs = checks::check(program.expression(), &Context::with_env(Arc::clone(&ENV))).unwrap();
        Self { source: source.to_owned(), needs, form: Form::Program(program) }
    }

    /// A message must not make loops run for minutes, or fill the memory.
    fn bound_loops(&self, event: &Event<'_>) -> Result<(), Cause> {
        if self.needs.loops == 0 {
            return Ok(());
        }
        let mut sizes = Sizes::default();
        for field in &self.needs.fields {
            match Found::field(event, field) {
                Ok(found) => sizes.add(&found.as_value()),
                Err(Cause::MissingKey(_)) => {}
                Err(cause) => return Err(cause),
            }
        }
        let longest = if self.needs.splits { sizes.longest_list.max(sizes.longest_text) } else { sizes.longest_list };
        let rounds = longest.saturating_pow(self.needs.loops);
        if rounds > MAX_LOOP_ROUNDS {
            return Err(Cause::TooManyRounds { longest, rounds });
        }
        let mut read = if self.needs.crosses { sizes.longest_text } else { 0 };
        for path in &self.needs.read_in_loops {
            let bytes = match path.is_empty() {
                true => sizes.bytes,
                false => Found::path(event, path).map_or(0, |found| bytes(&found.as_value())),
            };
            read = read.saturating_add(bytes);
        }
        if rounds.saturating_mul(read) > MAX_LOOP_TEXT_BYTES {
            return Err(Cause::TooMuchText);
        }
        Ok(())
    }
}

#[derive(Default)]
struct Sizes {
    longest_list: usize,
    longest_text: usize,
    bytes: usize,
}

impl Sizes {
    fn add(&mut self, value: &Value) {
        self.bytes += 8;
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
            Value::String(text) => {
                self.bytes += text.len();
                self.longest_text = self.longest_text.max(text.len());
            }
            Value::Array(items) => {
                self.longest_list = self.longest_list.max(items.len());
                items.iter().for_each(|item| self.add(item));
            }
            Value::Object(members) => {
                self.longest_list = self.longest_list.max(members.len());
                for (name, value) in members {
                    self.bytes += name.len();
                    self.longest_text = self.longest_text.max(name.len());
                    self.add(value);
                }
            }
        }
    }
}

fn bytes(value: &Value) -> usize {
    let mut sizes = Sizes::default();
    sizes.add(value);
    sizes.bytes
}

/// The first error, without the picture of it: the expression stands beside it anyway.
fn syntax(errors: &cel::ParseErrors) -> TemplateProblem {
    let Some(error) = errors.errors.first() else {
        return TemplateProblem::Syntax { line: 1, column: 1, message: "unknown".to_owned() };
    };
    if error.msg.contains("Recursion limit") {
        return TemplateProblem::TooDeep;
    }
    let line = usize::try_from(error.pos.0).unwrap_or(1).max(1);
    let column = usize::try_from(error.pos.1).unwrap_or(1).max(1);
    let message = error.msg.strip_prefix("Syntax error: ").unwrap_or(&error.msg);
    // The parser names every token that it would have taken, which is no help.
    let message = message.split(" expecting {").next().unwrap_or(message);
    TemplateProblem::Syntax { line, column, message: shortened(message) }
}

/// One message during one rendering.
pub(super) struct Scope<'e, 'm> {
    event: &'e Event<'m>,
    context: Option<Context<'e, 'e>>,
    fields: Vec<&'static str>,
}

impl<'e, 'm> Scope<'e, 'm> {
    pub(super) const fn new(event: &'e Event<'m>) -> Self {
        Self { event, context: None, fields: Vec::new() }
    }

    fn find(&self, path: &[String]) -> Result<Found<'e>, Cause> {
        Found::path(self.event, path)
    }

    /// The variable `event` with at least the fields that are needed: what no expression asks for is never read.
    fn context(&mut self, needs: &Needs) -> Result<&Context<'e, 'e>, Cause> {
        let known = needs.fields.iter().all(|field| self.fields.contains(field));
        if !known || self.context.is_none() {
            let wanted = FIELDS.iter().map(|field| field.name);
            self.fields = wanted.filter(|name| self.fields.contains(name) || needs.fields.contains(name)).collect();
            let mut entries = std::collections::HashMap::with_capacity(self.fields.len());
            for name in &self.fields {
                if let Some(value) = field_to_cel(self.event, name)? {
                    entries.insert(CelMapKey::from(*name), value);
                }
            }
            let mut context = Context::with_env(Arc::clone(&ENV));
            context.add_variable_as_val("event", Box::new(CelMap::from(entries)));
            self.context = Some(context);
        }
        self.context.as_ref().ok_or_else(|| Cause::Evaluation("no context".to_owned()))
    }
}

fn field_to_cel<'e>(event: &'e Event<'_>, name: &str) -> Result<Option<Cel<'e>>, Cause> {
    Ok(Some(match name {
        "data" => match &event.content()?.data {
            Data::Json(value) => values::to_cel(value),
            Data::Text(text) => Box::new(CelString::from(text.as_str())),
            Data::Bytes(bytes) => values::bytes_to_cel(bytes),
        },
        "cloudevent" => match &event.content()?.cloudevent {
            Some(attributes) => values::map_to_cel(attributes),
            None => return Ok(None),
        },
        "subject" => Box::new(CelString::from(event.subject())),
        "stream" => Box::new(CelString::from(event.stream())),
        "sequence" => values::integer_to_cel(event.sequence()),
        "deliveries" => values::integer_to_cel(event.deliveries()),
        "headers" => {
            let entries = event.headers().into_iter().map(|(name, value)| {
                let value: Cel<'_> = Box::new(CelString::from(value));
                (CelMapKey::from(name), value)
            });
            Box::new(CelMap::from(entries.collect::<std::collections::HashMap<_, _>>()))
        }
        "time" => {
            let time = event.time().parse().ok().map(cel::Value::Timestamp);
            let value = time.and_then(|time| Cel::try_from(time).ok());
            value.ok_or_else(|| Cause::Evaluation("the store time is out of range".to_owned()))?
        }
        _ => return Ok(None),
    }))
}

/// A part of an event, found without the evaluator.
enum Found<'e> {
    Json(&'e Value),
    Object(&'e Map<String, Value>),
    Text(&'e str),
    Bytes(&'e [u8]),
    Made(Value),
}

impl<'e> Found<'e> {
    fn path(event: &'e Event<'_>, path: &[String]) -> Result<Self, Cause> {
        let Some((field, rest)) = path.split_first() else {
            return Err(Cause::MissingKey(String::new()));
        };
        rest.iter().try_fold(Self::field(event, field)?, |found, name| found.member(name))
    }

    fn field(event: &'e Event<'_>, name: &str) -> Result<Self, Cause> {
        Ok(match name {
            "data" => match &event.content()?.data {
                Data::Json(value) => Self::Json(value),
                Data::Text(text) => Self::Text(text),
                Data::Bytes(bytes) => Self::Bytes(bytes),
            },
            "cloudevent" => match &event.content()?.cloudevent {
                Some(attributes) => Self::Object(attributes),
                None => return Err(Cause::MissingKey(name.to_owned())),
            },
            "subject" => Self::Text(event.subject()),
            "stream" => Self::Text(event.stream()),
            "sequence" => Self::Made(Value::from(event.sequence())),
            "deliveries" => Self::Made(Value::from(event.deliveries())),
            "time" => Self::Made(Value::String(event.time())),
            "headers" => {
                let mut headers = event.headers();
                headers.sort_by_key(|(name, _)| *name);
                let members = headers.into_iter().map(|(name, value)| (name.to_owned(), Value::String(value)));
                Self::Made(Value::Object(members.collect()))
            }
            _ => return Err(Cause::MissingKey(name.to_owned())),
        })
    }

    fn member(self, name: &str) -> Result<Self, Cause> {
        let missing = || Cause::MissingKey(shortened(name));
        let kind = match self {
            Self::Json(Value::Object(members)) | Self::Object(members) => {
                return members.get(name).map(Self::Json).ok_or_else(missing);
            }
            Self::Made(Value::Object(mut members)) => {
                return members.shift_remove(name).map(Self::Made).ok_or_else(missing);
            }
            Self::Json(value) => kind(value),
            Self::Made(value) => kind(&value),
            Self::Text(_) => "a text",
            Self::Bytes(_) => "bytes",
        };
        Err(Cause::WrongType(format!("there is no `{}` in {kind}", shortened(name))))
    }

    fn as_value(&self) -> std::borrow::Cow<'_, Value> {
        use base64::Engine;
        use std::borrow::Cow;
        match self {
            Self::Json(value) => Cow::Borrowed(*value),
            Self::Made(value) => Cow::Borrowed(value),
            Self::Object(members) => Cow::Owned(Value::Object((*members).clone())),
            Self::Text(text) => Cow::Owned(Value::String((*text).to_owned())),
            Self::Bytes(bytes) => Cow::Owned(Value::String(base64::engine::general_purpose::STANDARD.encode(bytes))),
        }
    }
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}
