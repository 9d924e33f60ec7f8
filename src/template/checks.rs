//! What can be said about an expression before any message came.

use std::collections::BTreeSet;

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use cel::{Context, Value};

use super::MAX_EXPRESSION_DEPTH;
use super::error::{TemplateProblem, nearest, shortened};
use super::functions::{FIELDS, FUNCTIONS, TYPES};

/// What evaluating an expression takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// Levels of recursion.
    pub(super) depth: usize,
    /// Fields of `event` that are used.
    pub(super) fields: BTreeSet<&'static str>,
    /// Loops inside each other.
    pub(super) loops: u32,
    /// A loop may run over the parts of a text.
    pub(super) splits: bool,
    /// Paths under `event` that a loop reads in each of its rounds.
    pub(super) read_in_loops: BTreeSet<Vec<String>>,
    /// An inner loop reads the variable of an outer one.
    pub(super) crosses: bool,
}

/// Names that only the parser's macros make.
const NAMESPACES: [&str; 2] = ["optional", "strings"];

/// Walks an expression.
pub(super) fn check(expression: &IdedExpr, context: &Context<'_, '_>) -> Result<Needs, TemplateProblem> {
    let mut walk = Walk { context, scopes: Vec::new(), bodies: Vec::new(), needs: Needs::default() };
    walk.expression(expression, 1)?;
    Ok(walk.needs)
}

struct Walk<'e, 'c> {
    context: &'c Context<'c, 'c>,
    /// Variables of the loops that we are inside of.
    scopes: Vec<&'e str>,
    /// For each loop body that we are inside of: how many scopes are outside of it.
    bodies: Vec<usize>,
    needs: Needs,
}

impl<'e> Walk<'e, '_> {
    fn expression(&mut self, node: &'e IdedExpr, depth: usize) -> Result<(), TemplateProblem> {
        if depth > MAX_EXPRESSION_DEPTH {
            return Err(TemplateProblem::TooDeep);
        }
        self.needs.depth = self.needs.depth.max(depth);
        let below = depth + 1;
        match &node.expr {
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.variable(name, None),
            Expr::Select(select) => {
                self.path(node)?;
                if let Expr::Ident(name) = &select.operand.expr {
                    return self.variable(name, Some(&select.field));
                }
                self.expression(&select.operand, below)
            }
            Expr::Call(call) => self.call(call, below),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension, below),
            Expr::List(list) => list.elements.iter().try_for_each(|item| self.expression(item, below)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| self.entry(&entry.expr, below)),
            Expr::Struct(message) => Err(TemplateProblem::Function { name: message.type_name.clone(), nearest: None }),
        }
    }

    fn entry(&mut self, entry: &'e EntryExpr, depth: usize) -> Result<(), TemplateProblem> {
        match entry {
            EntryExpr::StructField(field) => self.expression(&field.value, depth),
            EntryExpr::MapEntry(entry) => {
                self.expression(&entry.key, depth)?;
                self.expression(&entry.value, depth)
            }
        }
    }

    /// Notes a path under `event`, once, at its longest.
    fn path(&mut self, node: &'e IdedExpr) -> Result<(), TemplateProblem> {
        if self.bodies.is_empty() {
            return Ok(());
        }
        if let Some(path) = event_path(node)
            && !self.scopes.contains(&"event")
        {
            self.needs.read_in_loops.insert(path);
        }
        Ok(())
    }

    fn variable(&mut self, name: &'e str, field: Option<&'e str>) -> Result<(), TemplateProblem> {
        if let Some(scope) = self.scopes.iter().rposition(|known| *known == name) {
            if self.bodies.last().is_some_and(|outside| scope < *outside) {
                self.needs.crosses = true;
            }
            return Ok(());
        }
        if name == "event" {
            return self.event(field);
        }
        if name.starts_with(['@', '#']) || TYPES.contains(&name) {
            return Ok(());
        }
        let known = std::iter::once("event").chain(self.scopes.iter().copied());
        let nearest = nearest(name, known).map(str::to_owned);
        Err(TemplateProblem::Variable { name: name.to_owned(), nearest })
    }

    fn event(&mut self, field: Option<&str>) -> Result<(), TemplateProblem> {
        let Some(field) = field else {
            self.needs.fields.extend(FIELDS.iter().map(|field| field.name));
            if !self.bodies.is_empty() {
                self.needs.read_in_loops.insert(Vec::new());
            }
            return Ok(());
        };
        match FIELDS.iter().find(|known| known.name == field) {
            Some(known) => {
                self.needs.fields.insert(known.name);
                Ok(())
            }
            None => {
                let nearest = nearest(field, FIELDS.iter().map(|known| known.name)).map(str::to_owned);
                Err(TemplateProblem::Field { name: field.to_owned(), nearest })
            }
        }
    }

    fn call(&mut self, call: &'e CallExpr, depth: usize) -> Result<(), TemplateProblem> {
        let namespace = match call.target.as_deref().map(|target| &target.expr) {
            Some(Expr::Ident(name)) if NAMESPACES.contains(&name.as_str()) => Some(name.as_str()),
            _ => None,
        };
        self.function(namespace, &call.func_name)?;
        literals(call)?;
        self.constants(call)?;
        self.needs.splits |= call.func_name == "split";
        if let [base, key] = call.args.as_slice()
            && matches!(call.func_name.as_str(), operators::INDEX | operators::OPT_INDEX | operators::OPT_SELECT)
            && let (Expr::Ident(name), Some(key)) = (&base.expr, text(key))
        {
            return self.variable(name, Some(key));
        }
        if let (Some(target), None) = (&call.target, namespace) {
            self.expression(target, depth)?;
        }
        call.args.iter().try_for_each(|argument| self.expression(argument, depth))
    }

    fn function(&self, namespace: Option<&str>, name: &str) -> Result<(), TemplateProblem> {
        if !name.starts_with(|first: char| first.is_ascii_alphabetic()) {
            return Ok(());
        }
        let full = namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}.{name}"));
        if FUNCTIONS.iter().any(|known| known.name == full) {
            return Ok(());
        }
        let nearest = nearest(&full, FUNCTIONS.iter().map(|known| known.name)).map(str::to_owned);
        Err(TemplateProblem::Function { name: full, nearest })
    }

    /// A call whose arguments are all constants is made now, and so is `x.matches('constant')` on an empty text: what
    /// fails for every message must not wait for the first one.
    fn constants(&self, call: &CallExpr) -> Result<(), TemplateProblem> {
        let constant = |node: &IdedExpr| matches!(node.expr, Expr::Literal(_));
        let target = call.target.as_deref();
        let mut tried = call.clone();
        if call.func_name == "matches" && target.is_some() {
            let empty = Expr::Literal(LiteralValue::String(String::new().into()));
            tried.target = Some(Box::new(IdedExpr { id: 0, expr: empty }));
        } else if !target.is_none_or(constant) {
            return Ok(());
        }
        if !call.args.iter().all(constant) || call.func_name.starts_with('@') {
            return Ok(());
        }
        let tried = IdedExpr { id: 0, expr: Expr::Call(tried) };
        match Value::resolve(&tried, self.context) {
            Ok(_) => Ok(()),
            Err(error) => Err(TemplateProblem::AlwaysFails(shortened(&error.to_string()))),
        }
    }

    fn comprehension(&mut self, node: &'e ComprehensionExpr, depth: usize) -> Result<(), TemplateProblem> {
        self.expression(&node.iter_range, depth)?;
        self.expression(&node.accu_init, depth)?;
        // The macros of optionals are written as loops over nothing.
        let looping = !matches!(&node.iter_range.expr, Expr::List(list) if list.elements.is_empty());
        let outside = self.scopes.len();
        self.scopes.push(&node.accu_var);
        self.scopes.push(&node.iter_var);
        self.scopes.extend(node.iter_var2.as_deref());
        if looping {
            self.bodies.push(outside);
            let nested = u32::try_from(self.bodies.len()).unwrap_or(u32::MAX);
            self.needs.loops = self.needs.loops.max(nested);
        }
        self.expression(&node.loop_cond, depth)?;
        self.expression(&node.loop_step, depth)?;
        if looping {
            self.bodies.pop();
        }
        self.scopes.truncate(outside + 1);
        self.expression(&node.result, depth)?;
        self.scopes.truncate(outside);
        Ok(())
    }
}

/// The text that these functions repeat must be the author's.
fn literals(call: &CallExpr) -> Result<(), TemplateProblem> {
    let literal = |node: Option<&IdedExpr>| node.is_none_or(|node| text(node).is_some());
    let (function, argument, ok) = match call.func_name.as_str() {
        "replace" => ("replace", "new text", literal(call.args.get(1))),
        "join" => ("join", "text between", literal(call.args.first())),
        "format" => ("format", "format", literal(call.target.as_deref())),
        _ => return Ok(()),
    };
    if ok { Ok(()) } else { Err(TemplateProblem::NotLiteral { function, argument }) }
}

fn text(node: &IdedExpr) -> Option<&str> {
    if let Expr::Literal(LiteralValue::String(text)) = &node.expr { Some(text.inner()) } else { None }
}

/// `event.a.b`, also written `event["a"].b`, as `["a", "b"]`.
pub(super) fn event_path(node: &IdedExpr) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut node = node;
    loop {
        #[allow(clippy::wildcard_enum_match_arm, reason = "whatever else it is, it is no path")]
        match &node.expr {
            Expr::Ident(name) if name == "event" && !names.is_empty() => {
                names.reverse();
                return Some(names);
            }
            Expr::Select(select) if !select.test => {
                names.push(select.field.clone());
                node = &select.operand;
            }
            Expr::Call(call) if call.func_name == operators::INDEX && call.target.is_none() => {
                let [base, key] = call.args.as_slice() else {
                    return None;
                };
                names.push(text(key)?.to_owned());
                node = base;
            }
            _ => return None,
        }
    }
}
