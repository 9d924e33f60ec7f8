//! A document with expressions in its strings.

use serde_json::{Map, Value};

use super::error::{Cause, RenderError, TemplateError, TemplateProblem};
use super::event::Event;
use super::expression::{Expression, Scope};
use super::parts::{self, Part};
use super::values::{self, Budget};
use super::{MAX_DOCUMENT_DEPTH, MAX_EXPRESSIONS, MAX_RENDERED_BYTES, stack};

/// A compiled document.
#[derive(Debug)]
pub struct Template {
    root: Node,
    /// Bytes that are there whatever the message.
    fixed: usize,
    /// Levels of the deepest expression.
    depth: usize,
}

#[derive(Debug)]
enum Node {
    Fixed(Value),
    /// A string that is one expression: its value, of whatever type.
    Typed(Slot),
    /// A string with expressions in it.
    Text(Vec<Piece>),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
}

#[derive(Debug)]
struct Slot {
    path: String,
    expression: Expression,
}

#[derive(Debug)]
enum Piece {
    Text(String),
    Slot(Slot),
}

impl Template {
    /// Compiles every expression of a document.
    ///
    /// # Errors
    /// The first expression that is not CEL, uses what does not exist, is over a limit, or fails whatever the message.
    pub fn compile(document: &Value) -> Result<Self, TemplateError> {
        Self::compile_with_texts(document, &[])
    }

    /// The same, and strings under these paths always give texts: a number in a label would be refused by the API server.
    ///
    /// # Errors
    /// As [`Template::compile`].
    pub fn compile_with_texts(document: &Value, texts: &[&str]) -> Result<Self, TemplateError> {
        let compiled = stack::parsing(|| {
            let mut compiler = Compiler { texts, path: String::new(), expressions: 0, fixed: 0, depth: 0 };
            let root = compiler.node(document, 1)?;
            Ok(Self { root, fixed: compiler.fixed, depth: compiler.depth })
        });
        compiled.unwrap_or_else(|panicked| {
            let problem = TemplateProblem::Panicked(panicked.to_string());
            Err(TemplateError { path: "the document".to_owned(), expression: String::new(), problem })
        })
    }

    /// The document for a message.
    ///
    /// # Errors
    /// Where the message lacks what an expression needs, has it in another type, or makes the document too large. It
    /// would be the same the next time, so such a message belongs to the dead letters.
    pub fn render(&self, event: &Event<'_>) -> Result<Value, RenderError> {
        let rendered = stack::evaluating(self.depth, || {
            let mut scope = Scope::new(event);
            let mut budget = Budget::after(self.fixed);
            self.root.render(&mut scope, &mut budget)
        });
        rendered.unwrap_or_else(|panicked| Err(Cause::from(panicked).at("the document", "")))
    }

    /// Whether anything in the document depends on the message.
    #[must_use]
    pub const fn is_fixed(&self) -> bool {
        matches!(self.root, Node::Fixed(_))
    }
}

impl Node {
    fn render(&self, scope: &mut Scope<'_, '_>, budget: &mut Budget) -> Result<Value, RenderError> {
        Ok(match self {
            Self::Fixed(value) => value.clone(),
            Self::Typed(slot) => slot.evaluate(scope, budget)?,
            Self::Text(pieces) => {
                let mut text = String::new();
                for piece in pieces {
                    match piece {
                        Piece::Text(fixed) => text.push_str(fixed),
                        Piece::Slot(slot) => values::push_text(&mut text, &slot.evaluate(scope, budget)?),
                    }
                }
                Value::String(text)
            }
            Self::List(items) => {
                Value::Array(items.iter().map(|item| item.render(scope, budget)).collect::<Result<_, _>>()?)
            }
            Self::Map(members) => {
                let mut map = Map::with_capacity(members.len());
                for (name, node) in members {
                    map.insert(name.clone(), node.render(scope, budget)?);
                }
                Value::Object(map)
            }
        })
    }
}

impl Slot {
    fn evaluate(&self, scope: &mut Scope<'_, '_>, budget: &mut Budget) -> Result<Value, RenderError> {
        let Self { path, expression } = self;
        expression.evaluate(scope, budget).map_err(|cause| cause.at(path, &expression.source))
    }
}

struct Compiler<'t> {
    texts: &'t [&'t str],
    path: String,
    expressions: usize,
    fixed: usize,
    depth: usize,
}

impl Compiler<'_> {
    fn node(&mut self, value: &Value, depth: usize) -> Result<Node, TemplateError> {
        if depth > MAX_DOCUMENT_DEPTH {
            return Err(self.error("", TemplateProblem::DocumentTooDeep));
        }
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => {
                self.add(8)?;
                Ok(Node::Fixed(value.clone()))
            }
            Value::String(text) => self.string(text),
            Value::Array(items) => {
                self.add(2)?;
                let mut nodes = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    nodes.push(self.under(&format!("[{index}]"), item, depth)?);
                }
                Ok(Node::List(nodes).folded())
            }
            Value::Object(members) => {
                self.add(2)?;
                let mut nodes = Vec::with_capacity(members.len());
                for (name, member) in members {
                    self.add(name.len() + 3)?;
                    let step = if self.path.is_empty() { name.clone() } else { format!(".{name}") };
                    nodes.push((name.clone(), self.under(&step, member, depth)?));
                }
                Ok(Node::Map(nodes).folded())
            }
        }
    }

    fn under(&mut self, step: &str, value: &Value, depth: usize) -> Result<Node, TemplateError> {
        let length = self.path.len();
        self.path.push_str(step);
        let node = self.node(value, depth + 1)?;
        self.path.truncate(length);
        Ok(node)
    }

    fn string(&mut self, text: &str) -> Result<Node, TemplateError> {
        let parts = parts::split(text).map_err(|unclosed| self.error(unclosed.0, TemplateProblem::Unclosed))?;
        let mut pieces = Vec::with_capacity(parts.len());
        for part in parts {
            pieces.push(match part {
                Part::Text(text) => {
                    self.add(text.len() + 2)?;
                    Piece::Text(text)
                }
                Part::Expression(source) => Piece::Slot(self.slot(source)?),
            });
        }
        if let [Piece::Text(_) | Piece::Slot(_)] = pieces.as_slice() {
            return Ok(match pieces.pop() {
                Some(Piece::Slot(slot)) if self.gives_text() => Node::Text(vec![Piece::Slot(slot)]),
                Some(Piece::Slot(slot)) => Node::Typed(slot),
                Some(Piece::Text(text)) => Node::Fixed(Value::String(text)),
                None => Node::Fixed(Value::String(String::new())),
            });
        }
        Ok(Node::Text(pieces))
    }

    fn slot(&mut self, source: &str) -> Result<Slot, TemplateError> {
        self.expressions += 1;
        if self.expressions > MAX_EXPRESSIONS {
            return Err(self.error(source, TemplateProblem::TooMany));
        }
        let expression = Expression::compile(source).map_err(|problem| self.error(source, problem))?;
        self.depth = self.depth.max(expression.depth());
        Ok(Slot { path: self.path.clone(), expression })
    }

    fn gives_text(&self) -> bool {
        let under = |text: &str| self.path.strip_prefix(text).is_some_and(|rest| rest.starts_with(['.', '[']));
        self.texts.iter().any(|text| under(text))
    }

    fn add(&mut self, bytes: usize) -> Result<(), TemplateError> {
        self.fixed += bytes;
        if self.fixed > MAX_RENDERED_BYTES {
            return Err(self.error("", TemplateProblem::DocumentTooLarge));
        }
        Ok(())
    }

    fn error(&self, expression: &str, problem: TemplateProblem) -> TemplateError {
        let path = if self.path.is_empty() { "the document".to_owned() } else { self.path.clone() };
        TemplateError { path, expression: expression.trim().to_owned(), problem }
    }
}

impl Node {
    const fn is_fixed(&self) -> bool {
        matches!(self, Self::Fixed(_))
    }

    /// One value where no message changes anything in it.
    fn folded(self) -> Self {
        match self {
            Self::List(nodes) if nodes.iter().all(Self::is_fixed) => {
                Self::Fixed(Value::Array(nodes.into_iter().map(Self::into_fixed).collect()))
            }
            Self::Map(nodes) if nodes.iter().all(|(_, node)| node.is_fixed()) => {
                Self::Fixed(Value::Object(nodes.into_iter().map(|(name, node)| (name, node.into_fixed())).collect()))
            }
            other @ (Self::Fixed(_) | Self::Typed(_) | Self::Text(_) | Self::List(_) | Self::Map(_)) => other,
        }
    }

    fn into_fixed(self) -> Value {
        match self {
            Self::Fixed(value) => value,
            Self::Typed(_) | Self::Text(_) | Self::List(_) | Self::Map(_) => Value::Null,
        }
    }
}
