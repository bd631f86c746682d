//! Integer expressions inside `$(( ))`.

/// Deepest nesting of parentheses and signs.
const MAX_DEPTH: usize = 64;

/// Length of the expression at the start of `text`, which the first unpaired `))` ends.
pub(crate) fn end(text: &str) -> Option<usize> {
    let mut open = 0usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => open += 1,
            b')' if open > 0 => open -= 1,
            b')' => return text[at + 1..].starts_with(')').then_some(at),
            _ => {}
        }
    }
    None
}

/// Computes `text`: integers, names, `+ - * / %`, parentheses. `value` gives the text of a name.
///
/// # Errors
/// A description of what is wrong.
pub(crate) fn evaluate(text: &str, value: &dyn Fn(&str) -> String) -> Result<i64, String> {
    let mut expression = Expression { rest: text, value };
    let result = expression.sum(0)?;
    match expression.rest.trim_start() {
        "" => Ok(result),
        rest => Err(format!("`{rest}` after the expression")),
    }
}

struct Expression<'a> {
    rest: &'a str,
    value: &'a dyn Fn(&str) -> String,
}

impl<'a> Expression<'a> {
    fn take(&mut self, operators: &str) -> Option<char> {
        self.rest = self.rest.trim_start();
        let operator = self.rest.chars().next().filter(|c| operators.contains(*c))?;
        self.rest = &self.rest[operator.len_utf8()..];
        Some(operator)
    }

    fn word(&mut self) -> &'a str {
        self.rest = self.rest.trim_start();
        let end = self
            .rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn sum(&mut self, depth: usize) -> Result<i64, String> {
        let mut left = self.product(depth)?;
        while let Some(operator) = self.take("+-") {
            let right = self.product(depth)?;
            left =
                if operator == '+' { left.wrapping_add(right) } else { left.wrapping_sub(right) };
        }
        Ok(left)
    }

    fn product(&mut self, depth: usize) -> Result<i64, String> {
        let mut left = self.factor(depth)?;
        while let Some(operator) = self.take("*/%") {
            let right = self.factor(depth)?;
            left = match operator {
                '*' => left.wrapping_mul(right),
                _ if right == 0 => return Err("division by 0".to_owned()),
                '/' => left.wrapping_div(right),
                _ => left.wrapping_rem(right),
            };
        }
        Ok(left)
    }

    fn factor(&mut self, depth: usize) -> Result<i64, String> {
        if depth == MAX_DEPTH {
            return Err("an expression nested too deeply".to_owned());
        }
        if let Some(sign) = self.take("+-") {
            let value = self.factor(depth + 1)?;
            return Ok(if sign == '-' { value.wrapping_neg() } else { value });
        }
        if self.take("(").is_some() {
            let value = self.sum(depth + 1)?;
            return self.take(")").map(|_| value).ok_or_else(|| "a missing `)`".to_owned());
        }
        let word = self.word();
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            return number(word);
        }
        if word.is_empty() {
            return Err(format!("`{}` where a number is needed", self.rest));
        }
        let text = (self.value)(word);
        if text.trim().is_empty() { Ok(0) } else { number(text.trim()) }
    }
}

/// An integer as the shell reads it: decimal, `0x` hexadecimal, leading 0 octal.
fn number(text: &str) -> Result<i64, String> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let parsed = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => i64::from_str_radix(hex, 16),
        None if digits.len() > 1 && digits.starts_with('0') => i64::from_str_radix(digits, 8),
        None => digits.parse(),
    };
    parsed.map(|n| sign * n).map_err(|_| format!("`{text}`, which is not an integer"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(text: &str) -> Result<i64, String> {
        evaluate(text, &|name| if name == "N" { "6".to_owned() } else { String::new() })
    }

    #[test]
    fn computes_as_the_shell_does() {
        assert_eq!(of("2*3"), Ok(6));
        assert_eq!(of(" 1 + 2 * (N - 4) / 2 "), Ok(3));
        assert_eq!(of("-7 % 4 - -1"), Ok(-2));
        assert_eq!(of("UNSET + 010 + 0x10"), Ok(24));
        for bad in ["1/0", "1 +", "(1", "1 2", "08", "a$", "((((("] {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert!(of(&"(".repeat(100_000)).is_err());
    }

    proptest! {
        #[test]
        fn survives_anything(text in "[-+*/%()0-9N ]{0,60}") {
            let _ = of(&text);
        }
    }
}
