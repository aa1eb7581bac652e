//! Tables in plain text.

/// Which side of a column its cells keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Left,
    Right,
}

/// A header, a rule, and `rows`; two spaces between columns.
pub fn table<const N: usize>(columns: [(&str, Side); N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([columns[column].0.chars().count()]).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    let mut line = |cell: &dyn Fn(usize) -> String| {
        let mut line = String::new();
        for column in 0..N {
            let (cell, width) = (cell(column), widths[column]);
            match columns[column].1 {
                Side::Left => line += &format!("  {cell:<width$}"),
                Side::Right => line += &format!("  {cell:>width$}"),
            }
        }
        text += line.trim_end();
        text.push('\n');
    };
    line(&|column| columns[column].0.to_owned());
    line(&|column| "─".repeat(widths[column]));
    for row in rows {
        line(&|column| row[column].clone());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_characters() {
        let rows = [["é".to_owned(), "10".to_owned()], ["label".to_owned(), "7".to_owned()]];
        let want = "  name   µs\n  ─────  ──\n  é      10\n  label   7\n";
        assert_eq!(table([("name", Side::Left), ("µs", Side::Right)], &rows), want);
    }
}
