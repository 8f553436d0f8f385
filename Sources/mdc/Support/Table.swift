// SPDX-License-Identifier: Apache-2.0

/// Rows of text under titles, aligned. On a terminal that is too narrow the widest columns are cut, with an ellipsis.
struct Table {
    enum Alignment {
        case left
        case right
    }

    struct Column {
        let title: String
        let alignment: Alignment

        /// A column of text.
        static func text(_ title: String) -> Column { Column(title: title, alignment: .left) }
        /// A column of numbers.
        static func number(_ title: String) -> Column { Column(title: title, alignment: .right) }
    }

    private static let gap = "  "
    /// No column is cut below this many characters.
    private static let narrowest = 8

    let columns: [Column]
    private(set) var rows: [[String]] = []

    init(_ columns: [Column]) {
        self.columns = columns
    }

    /// Adds a row, one cell per column.
    mutating func add(_ cells: [String]) {
        precondition(cells.count == columns.count, "a row needs a cell for each column")
        rows.append(cells.map(Self.printable))
    }

    /// The table as lines, for a terminal of `width` characters; nil for as wide as it takes.
    func rendered(width: Int? = StandardOutput.terminalWidth) -> String {
        var widths = columns.map(\.title.count)
        for row in rows {
            for (index, cell) in row.enumerated() { widths[index] = max(widths[index], cell.count) }
        }
        if let width { Self.shrink(&widths, to: width - Self.gap.count * (columns.count - 1)) }
        var text = line(columns.map(\.title), widths)
        for row in rows { text += line(row, widths) }
        return text
    }

    private static func shrink(_ widths: inout [Int], to total: Int) {
        var excess = widths.reduce(0, +) - total
        while excess > 0, let widest = widths.indices.max(by: { widths[$0] < widths[$1] }), widths[widest] > narrowest {
            widths[widest] -= 1
            excess -= 1
        }
    }

    private func line(_ cells: [String], _ widths: [Int]) -> String {
        var text = ""
        for (index, cell) in cells.enumerated() {
            let width = widths[index]
            let cut = cell.count > width ? String(cell.prefix(width - 1)) + "…" : cell
            let padding = String(repeating: " ", count: width - cut.count)
            if index > 0 { text += Self.gap }
            text += columns[index].alignment == .right ? padding + cut : cut + padding
        }
        while text.last == " " { text.removeLast() }
        return text + "\n"
    }

    /// Control characters would break the lines, or command the terminal.
    private static func printable(_ cell: String) -> String {
        guard cell.unicodeScalars.contains(where: { $0.value < 0x20 || (0x7F...0x9F).contains($0.value) }) else {
            return cell
        }
        var text = ""
        for scalar in cell.unicodeScalars {
            let isControl = scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value)
            text += isControl ? "\\u{\(String(scalar.value, radix: 16))}" : String(scalar)
        }
        return text
    }
}
