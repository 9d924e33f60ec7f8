//! What an expression may use: one table for the check at compile time, the documentation and its tests.

use std::fmt::Write as _;

/// A function, operator or macro with an expression that shows it.
#[derive(Debug, Clone, Copy)]
pub struct Function {
    /// As it is written, with its namespace: `size`, `optional.of`.
    pub name: &'static str,
    /// What it does.
    pub meaning: &'static str,
    /// An expression; the documentation is tested by evaluating it.
    pub example: &'static str,
    /// Its result as JSON.
    pub result: &'static str,
}

const fn function(name: &'static str, meaning: &'static str, example: &'static str, result: &'static str) -> Function {
    Function { name, meaning, example, result }
}

/// Every function that an expression may call.
pub const FUNCTIONS: &[Function] = &[
    function("has", "whether a field is there", "has(event.data.id) ? event.data.id : 'none'", "\"none\""),
    function("size", "characters of a text, bytes, items or keys", "size('héllo')", "5"),
    function("string", "as text", "string(3) + string(true)", "\"3true\""),
    function("int", "as a 64-bit integer", "int('42')", "42"),
    function("uint", "as an unsigned 64-bit integer", "uint('18446744073709551615')", "18446744073709551615"),
    function("double", "as a double", "double('1.5')", "1.5"),
    function("bool", "as a boolean", "bool('true')", "true"),
    function("bytes", "as bytes, which become base64 in the document", "bytes('hi')", "\"aGk=\""),
    function("dyn", "the value, without a type known in advance", "dyn(1)", "1"),
    function("type", "the type, to compare with", "type(1) == int", "true"),
    function(
        "timestamp",
        "a time from RFC 3339 or from seconds",
        "timestamp('2026-01-02T03:04:05Z')",
        "\"2026-01-02T03:04:05Z\"",
    ),
    function("duration", "a duration", "duration('1h30m')", "\"1h30m0s\""),
    function("contains", "whether a text is in a text", "'orders.eu'.contains('.eu')", "true"),
    function("startsWith", "how a text begins", "'orders.eu'.startsWith('orders.')", "true"),
    function("endsWith", "how a text ends", "'orders.eu'.endsWith('.eu')", "true"),
    function("matches", "whether a regular expression (RE2) matches", "'order-17'.matches('^order-[0-9]+$')", "true"),
    function("charAt", "one character", "'abc'.charAt(1)", "\"b\""),
    function("indexOf", "where a text is in a text, or -1", "'a.b.c'.indexOf('.')", "1"),
    function("lastIndexOf", "where it is last", "'a.b.c'.lastIndexOf('.')", "3"),
    function("lowerAscii", "lower case, A to Z", "'Order-A'.lowerAscii()", "\"order-a\""),
    function("upperAscii", "upper case, a to z", "'eu'.upperAscii()", "\"EU\""),
    function("trim", "without white space around it", "' x '.trim()", "\"x\""),
    function("replace", "a text for another; the new one is a text in quotes", "'a/b'.replace('/', '-')", "\"a-b\""),
    function("split", "a list of texts", "'orders.eu.17'.split('.')", "[\"orders\",\"eu\",\"17\"]"),
    function("substring", "from an index, up to an index", "'abcdef'.substring(1, 3)", "\"bc\""),
    function("join", "a list of texts as one; the text between is in quotes", "['a', 'b'].join('-')", "\"a-b\""),
    function("format", "a text in quotes with values", "'%s-%d'.format(['a', 7])", "\"a-7\""),
    function("strings.quote", "with quotes and escapes", "strings.quote('a\"b')", "\"\\\"a\\\\\\\"b\\\"\""),
    function("reverse", "backwards", "[1, 2].reverse()", "[2,1]"),
    function("all", "whether each one is so", "[1, 2].all(x, x > 0)", "true"),
    function("exists", "whether one is so", "[1, 2].exists(x, x == 2)", "true"),
    function("exists_one", "whether exactly one is so", "[1, 2].exists_one(x, x == 2)", "true"),
    function("map", "a list from a list", "[1, 2].map(x, x * 10)", "[10,20]"),
    function("filter", "the ones that are so", "[1, 2, 3].filter(x, x % 2 == 1)", "[1,3]"),
    function(
        "sort",
        "in order; the keys of a map have none otherwise",
        "{'b': 1, 'a': 2}.map(k, k).sort()",
        "[\"a\",\"b\"]",
    ),
    function("sortBy", "in the order of a key", "[{'n': 2}, {'n': 1}].sortBy(x, x.n).map(x, x.n)", "[1,2]"),
    function("slice", "from an index, up to an index", "[1, 2, 3].slice(0, 2)", "[1,2]"),
    function("flatten", "lists in a list as one", "[[1], [2, 3]].flatten()", "[1,2,3]"),
    function("optional.of", "a value that may be missing", "optional.of(1).hasValue()", "true"),
    function("optional.none", "a value that is missing", "optional.none().orValue(2)", "2"),
    function(
        "optional.ofNonZeroValue",
        "missing where it is empty or zero",
        "optional.ofNonZeroValue('').orValue('x')",
        "\"x\"",
    ),
    function("orValue", "the value of `.?`, or another one", "event.data.?id.orValue('none')", "\"none\""),
    function("or", "the first that is not missing", "event.data.?id.or(optional.of(1)).value()", "1"),
    function("hasValue", "whether it is not missing", "event.data.?id.hasValue()", "false"),
    function("value", "the value, an error where it is missing", "optional.of(1).value()", "1"),
    function(
        "optMap",
        "an expression of it, where it is not missing",
        "event.data.?id.optMap(x, x + 1).orValue(0)",
        "0",
    ),
    function(
        "optFlatMap",
        "the same where the expression may be missing too",
        "optional.of({'a': 1}).optFlatMap(x, x.?a).value()",
        "1",
    ),
    function("getFullYear", "of a time, in UTC or a zone", "timestamp('2026-01-02T03:04:05Z').getFullYear()", "2026"),
    function("getMonth", "from 0", "timestamp('2026-01-02T03:04:05Z').getMonth()", "0"),
    function("getDate", "day of the month, from 1", "timestamp('2026-01-02T03:04:05Z').getDate()", "2"),
    function("getDayOfMonth", "from 0", "timestamp('2026-01-02T03:04:05Z').getDayOfMonth()", "1"),
    function("getDayOfWeek", "from 0, Sunday", "timestamp('2026-01-02T03:04:05Z').getDayOfWeek()", "5"),
    function("getDayOfYear", "from 0", "timestamp('2026-01-02T03:04:05Z').getDayOfYear()", "1"),
    function("getHours", "of a time or a duration", "timestamp('2026-01-02T03:04:05Z').getHours('Europe/Berlin')", "4"),
    function("getMinutes", "of a time or a duration", "duration('1h30m').getMinutes()", "90"),
    function("getSeconds", "of a time or a duration", "duration('1m').getSeconds()", "60"),
    function(
        "getMilliseconds",
        "of a time or a duration",
        "timestamp('2026-01-02T03:04:05.678Z').getMilliseconds()",
        "678",
    ),
];

/// Names that are types, for `type(x) == int`.
pub(super) const TYPES: [&str; 10] =
    ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"];

/// A field of `event`.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its type in CEL.
    pub kind: &'static str,
    /// What it holds.
    pub meaning: &'static str,
}

const fn field(name: &'static str, kind: &'static str, meaning: &'static str) -> Field {
    Field { name, kind, meaning }
}

/// The fields of `event`.
pub const FIELDS: &[Field] = &[
    field(
        "data",
        "any",
        "the payload: its JSON value, else text where it is UTF-8, else bytes; of a CloudEvent its data",
    ),
    field("subject", "string", "the subject that the message was published to"),
    field("headers", "map", "name to text, names as they were sent; several values of a name are joined by `, `"),
    field("time", "timestamp", "when the stream stored the message; a redelivery does not change it"),
    field("stream", "string", "the stream"),
    field("sequence", "int", "the sequence in the stream"),
    field(
        "deliveries",
        "int",
        "how often the server says it delivered the message, 1 the first time; a retry renders again, so a document that uses it changes",
    ),
    field(
        "cloudevent",
        "map",
        "attributes and extensions where the message is a CloudEvent, otherwise missing: `has(event.cloudevent)`",
    ),
];

pub(super) fn field_names() -> String {
    let names: Vec<&str> = FIELDS.iter().map(|field| field.name).collect();
    names.join(", ")
}

/// The tables of `docs/templates.md`.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from("### Fields of `event`\n\n| field | type | what it holds |\n|---|---|---|\n");
    let cell = |text: &str| text.replace('|', "\\|");
    for field in FIELDS {
        // Writing to a String can't fail.
        writeln!(text, "| `event.{}` | {} | {} |", field.name, field.kind, cell(field.meaning)).ok();
    }
    text.push_str("\n### Functions\n\n| function | what it gives | example | result |\n|---|---|---|---|\n");
    for function in FUNCTIONS {
        let Function { name, meaning, example, result } = function;
        writeln!(text, "| `{name}` | {} | `{}` | `{}` |", cell(meaning), cell(example), cell(result)).ok();
    }
    text
}
