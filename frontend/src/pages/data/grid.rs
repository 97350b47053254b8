//! The cells of the table in which a dataset is written, without the page: pasting from a spreadsheet, what is missing, and
//! the rows that come of it.

use serde_json::{Map, Value};

/// Columns of the table, by the names that the rows get.
pub const COLUMNS: [&str; 3] = ["instruction", "output", "system"];

/// One row of the table: question, answer, system message.
pub type Cells = [String; 3];

/// Cells of a piece of a spreadsheet: rows by line ends, columns by tabs, a cell with either in it in double quotes.
pub fn read(text: &str) -> Vec<Vec<String>> {
    let mut rows = vec![Vec::new()];
    let mut cell = String::new();
    let mut quoted = false;
    let mut signs = text.chars().peekable();
    let end = |rows: &mut Vec<Vec<String>>, cell: &mut String| {
        if let Some(row) = rows.last_mut() {
            row.push(std::mem::take(cell));
        }
    };
    while let Some(sign) = signs.next() {
        match sign {
            '"' if quoted && signs.peek() == Some(&'"') => {
                signs.next();
                cell.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if cell.is_empty() => quoted = true,
            '\t' if !quoted => end(&mut rows, &mut cell),
            '\r' if signs.peek() == Some(&'\n') => {}
            '\n' | '\r' if !quoted => {
                end(&mut rows, &mut cell);
                rows.push(Vec::new());
            }
            sign => cell.push(sign),
        }
    }
    end(&mut rows, &mut cell);
    // A line end behind the last row makes no row.
    if rows.last().is_some_and(|row| row.iter().all(String::is_empty)) {
        rows.pop();
    }
    rows
}

/// Puts cells over the table from a cell on; rows are added as they are needed, what goes beyond the last column is left.
pub fn paste(table: &mut Vec<Cells>, row: usize, column: usize, cells: Vec<Vec<String>>) {
    for (i, line) in cells.into_iter().enumerate() {
        if table.len() <= row + i {
            table.push(Cells::default());
        }
        if let Some(target) = table.get_mut(row + i) {
            target.iter_mut().skip(column).zip(line).for_each(|(cell, text)| *cell = text);
        }
    }
}

/// The first cell that must be filled before the table can be saved: a question without an answer or the other way round,
/// or the first one of an empty table.
pub fn missing(table: &[Cells]) -> Option<(usize, usize)> {
    let filled = |cell: &String| !cell.trim().is_empty();
    let hole = table.iter().enumerate().find_map(|(i, row)| match row {
        [question, answer, _] if filled(question) && !filled(answer) => Some((i, 1)),
        [question, answer, system] if !filled(question) && (filled(answer) || filled(system)) => Some((i, 0)),
        _ => None,
    });
    hole.or_else(|| table.iter().all(|row| !row.iter().any(filled)).then_some((0, 0)))
}

/// The rows as JSON. The system message is a column of all rows or of none.
pub fn rows(table: &[Cells]) -> Value {
    let is_filled = |row: &&Cells| row.iter().any(|cell| !cell.trim().is_empty());
    let with_system = table.iter().any(|[.., system]| !system.trim().is_empty());
    let columns = if with_system { COLUMNS.len() } else { COLUMNS.len() - 1 };
    let object = |row: &Cells| {
        let cells = COLUMNS.iter().zip(row).take(columns);
        Value::Object(cells.map(|(name, cell)| ((*name).to_owned(), cell.clone().into())).collect::<Map<_, _>>())
    };
    table.iter().filter(is_filled).map(object).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(cells: [&str; 3]) -> Cells {
        cells.map(str::to_owned)
    }

    #[test]
    fn a_spreadsheet_is_read_with_its_quotes() {
        assert_eq!(read("a\tb\r\nc\td\n"), [["a", "b"], ["c", "d"]]);
        assert_eq!(read("\"two\nlines\"\t\"say \"\"hi\"\"\"\nx"), [vec!["two\nlines", "say \"hi\""], vec!["x"]]);
        assert_eq!(read("5\" disk\t"), [["5\" disk", ""]]);
        assert!(read("").is_empty());
        assert_eq!(read("\"never closed\tx"), [["never closed\tx"]]);
    }

    #[test]
    fn pasting_fills_from_the_cell_on_and_adds_rows() {
        let mut table = vec![row(["q1", "", "s"])];
        paste(&mut table, 0, 1, read("a1\ts1\tbeyond\na2"));
        assert_eq!(table, [row(["q1", "a1", "s1"]), row(["", "a2", ""])]);
    }

    #[test]
    fn half_a_row_is_missing_the_other_half() {
        assert_eq!(missing(&[row(["", "", ""])]), Some((0, 0)));
        assert_eq!(missing(&[row(["q", "a", ""]), row(["q", " ", ""])]), Some((1, 1)));
        assert_eq!(missing(&[row(["", "", "s"])]), Some((0, 0)));
        assert_eq!(missing(&[row(["q", "a", ""]), row(["", "", ""])]), None);
    }

    #[test]
    fn rows_have_a_system_message_all_or_none() {
        let table = [row(["q", "a", ""]), row(["", "", ""]), row(["p", "b", ""])];
        assert_eq!(rows(&table), json!([{ "instruction": "q", "output": "a" }, { "instruction": "p", "output": "b" }]));
        let table = [row(["q", "a", ""]), row(["p", "b", "s"])];
        assert_eq!(rows(&table)[0], json!({ "instruction": "q", "output": "a", "system": "" }));
    }
}
