//! Tables of plain text.

use comfy_table::{CellAlignment, Table, presets};

/// A table with a line below its header, indented by two spaces. `right` are the columns with
/// figures. Lines do not end in spaces.
pub(crate) fn render(header: &[&str], rows: &[Vec<String>], right: &[usize]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    for row in rows {
        table.add_row(row.clone());
    }
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let text = table.to_string();
    let width = text.lines().map(|line| line.trim_end().chars().count()).max().unwrap_or(0);
    let mut lines: Vec<_> = text.lines().map(|line| format!("  {}", line.trim_end())).collect();
    // The cells of this style begin with a space; the rule starts where the text does.
    lines.insert(1.min(lines.len()), format!("   {}", "-".repeat(width.saturating_sub(1))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        let row = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        let rows = [row("vendor-1", "1.0 GiB"), row("v", "7 B")];
        let expected = "   vendor       free\n   -----------------\n   vendor-1  1.0 GiB\n   v             7 B";
        let text = render(&["vendor", "free"], &rows, &[1]);
        assert_eq!(text, expected, "\n{text}\n{expected}");
    }

    #[test]
    fn a_table_without_rows_is_its_header() {
        assert_eq!(render(&["a", "b"], &[], &[1]).lines().count(), 2);
    }
}
