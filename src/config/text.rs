//! TOML text as values that know their line. Knows TOML, no key.

use ::config::{Map, Value, ValueKind};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{fault::Fault, secret};

/// Reads a whole text: its values, or what is wrong with it. Without a name every place is `default`.
pub(super) fn read(name: Option<String>, text: &str) -> (Map<String, Value>, Vec<Fault>) {
    let mut reader = Reader { name, text, faults: Vec::new() };
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let mut faults = errors.iter().map(|error| reader.syntax_fault(error)).collect::<Vec<_>>();
        // What else the parser trips over in a line follows from the first.
        faults.dedup_by_key(|fault| fault.place.rsplit_once(':').map(|(line, _)| line.to_owned()));
        return (Map::new(), faults);
    }
    let values = reader.table(table.into_inner());
    (values, reader.faults)
}

/// Reads a text that is one value, or nothing where it is not.
pub(super) fn read_value(text: &str) -> Option<ValueKind> {
    let value = DeValue::parse(text).ok()?.into_inner();
    let mut reader = Reader { name: None, text, faults: Vec::new() };
    let value = reader.value(value, "")?;
    reader.faults.is_empty().then_some(value.kind)
}

/// Turns parsed TOML into values that know their place.
struct Reader<'text> {
    /// The file's name; nothing for what needs no lines.
    name: Option<String>,
    text: &'text str,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn table(&mut self, table: DeTable<'_>) -> Map<String, Value> {
        let mut values = Map::new();
        for (key, value) in table {
            let place = self.place(key.span().start);
            let key = key.into_inner().into_owned();
            if let Some(value) = self.value(value.into_inner(), &place) {
                values.insert(key, value);
            }
        }
        values
    }

    fn value(&mut self, value: DeValue<'_>, place: &str) -> Option<Value> {
        let kind: ValueKind = match value {
            DeValue::String(text) => text.into_owned().into(),
            DeValue::Boolean(value) => value.into(),
            DeValue::Datetime(value) => value.to_string().into(),
            DeValue::Integer(value) => match i64::from_str_radix(value.as_str(), value.radix()) {
                Ok(number) => number.into(),
                Err(_) => {
                    return self.refuse(place, &format!("the whole number {value} needs more than 64 bits"));
                }
            },
            DeValue::Float(value) => match value.as_str().parse::<f64>() {
                Ok(number) => number.into(),
                Err(_) => return self.refuse(place, &format!("{value} is not a number")),
            },
            DeValue::Array(array) => {
                let mut item = |item: Spanned<DeValue<'_>>| {
                    let place = self.place(item.span().start);
                    self.value(item.into_inner(), &place)
                };
                array.into_iter().filter_map(&mut item).collect::<Vec<_>>().into()
            }
            DeValue::Table(table) => self.table(table).into(),
        };
        Some(Value::new(Some(&place.to_owned()), kind))
    }

    fn refuse(&mut self, place: &str, text: &str) -> Option<Value> {
        self.faults.push(Fault::new(place, text));
        None
    }

    /// `file:line` of a byte of the text.
    fn place(&self, offset: usize) -> String {
        let Some(name) = &self.name else { return "default".into() };
        format!("{name}:{}", self.line_before(offset).matches('\n').count() + 1)
    }

    /// The text before a byte of it.
    fn line_before(&self, offset: usize) -> &str {
        self.text.get(..offset).unwrap_or(self.text)
    }

    /// What is no TOML: line, column, the line itself and a mark below the spot.
    fn syntax_fault(&self, error: &toml::de::Error) -> Fault {
        let offset = error.span().map_or(0, |span| span.start);
        let before = self.line_before(offset);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let column = before[start..].chars().count();
        let number = before.matches('\n').count() + 1;
        let line = self.text[start..].lines().next().unwrap_or_default();
        let shown = secret::mask_line(line);
        let mark = if shown == line {
            format!("\n{:1$}^", "", column + number.to_string().len() + 3)
        } else {
            String::new()
        };
        let place = format!("{}:{}", self.place(offset), column + 1);
        Fault::new(place, format!("this is no TOML: {}\n{number} | {shown}{mark}", error.message()))
    }
}
