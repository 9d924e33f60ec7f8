//! Where the expressions of a string are.

/// A piece of a string.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    Text(String),
    Expression(&'a str),
}

/// `${{` without its `}}`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unclosed<'a>(pub(super) &'a str);

const OPEN: &str = "${{";

/// Cuts a string at its expressions. `$${{` is the literal `${{`; everything else, `${X}` and `{{x}}` too, is text.
pub(super) fn split(text: &str) -> Result<Vec<Part<'_>>, Unclosed<'_>> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(OPEN) {
        if let Some(before) = before.strip_suffix('$') {
            literal.push_str(before);
            literal.push_str(OPEN);
            rest = after;
            continue;
        }
        literal.push_str(before);
        let length = expression_length(after).ok_or(Unclosed(after))?;
        let (expression, tail) = after.split_at_checked(length).ok_or(Unclosed(after))?;
        if !literal.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut literal)));
        }
        parts.push(Part::Expression(expression.trim()));
        rest = tail.strip_prefix("}}").unwrap_or(tail);
    }
    literal.push_str(rest);
    if !literal.is_empty() || parts.is_empty() {
        parts.push(Part::Text(literal));
    }
    Ok(parts)
}

/// Bytes up to the `}}` that ends the expression: one inside a string or a map literal does not.
fn expression_length(text: &str) -> Option<usize> {
    let mut braces = 0_usize;
    let mut skip = 0_usize;
    let mut before = ' ';
    for (index, char) in text.char_indices() {
        let previous = std::mem::replace(&mut before, char);
        if index < skip {
            continue;
        }
        let tail = text.get(index..)?;
        match char {
            '\'' | '"' => {
                let raw = matches!(previous, 'r' | 'R');
                skip = index + string_length(tail, char, raw)?;
            }
            '{' => braces += 1,
            '}' if braces > 0 => braces -= 1,
            '}' if tail.starts_with("}}") => return Some(index),
            _ => {}
        }
    }
    None
}

/// Bytes of a CEL string literal, its quotes included.
fn string_length(text: &str, quote: char, raw: bool) -> Option<usize> {
    let triple: String = std::iter::repeat_n(quote, 3).collect();
    let end = if text.starts_with(&triple) { triple.as_str() } else { triple.get(..1)? };
    let mut escaped = false;
    for (index, char) in text.char_indices() {
        if index < end.len() {
            continue;
        }
        if escaped {
            escaped = false;
        } else if char == '\\' && !raw {
            escaped = true;
        } else if text.get(index..)?.starts_with(end) {
            return Some(index + end.len());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Part<'_> {
        Part::Text(text.to_owned())
    }

    #[test]
    fn finds_expressions_and_leaves_the_rest() {
        let table: [(&str, Vec<Part<'_>>); 12] = [
            ("", vec![text("")]),
            ("plain ${X} {{inputs.parameters.x}} $", vec![text("plain ${X} {{inputs.parameters.x}} $")]),
            ("${{ a }}", vec![Part::Expression("a")]),
            ("x-${{a}}-${{ b }}", vec![text("x-"), Part::Expression("a"), text("-"), Part::Expression("b")]),
            ("$${{ a }}", vec![text("${{ a }}")]),
            ("$$${{ a }}", vec![text("$${{ a }}")]),
            ("$${{ a }} ${{ b }}", vec![text("${{ a }} "), Part::Expression("b")]),
            ("${{ {'a': {'b': 1}} }}", vec![Part::Expression("{'a': {'b': 1}}")]),
            ("${{ {'a':{'b':1}}}}", vec![Part::Expression("{'a':{'b':1}}")]),
            (r#"${{ "}}" + '\'}}' }}"#, vec![Part::Expression(r#""}}" + '\'}}'"#)]),
            (r"${{ r'\' + '''it's }}''' }}x", vec![Part::Expression(r"r'\' + '''it's }}'''"), text("x")]),
            ("${{}}", vec![Part::Expression("")]),
        ];
        for (input, expected) in table {
            assert_eq!(split(input).unwrap(), expected, "{input}");
        }
    }

    #[test]
    fn an_expression_must_end() {
        for input in ["${{", "${{ a }", "x ${{ 'a }}", "${{ {'a': 1}}"] {
            assert!(split(input).is_err(), "{input}");
        }
    }
}
