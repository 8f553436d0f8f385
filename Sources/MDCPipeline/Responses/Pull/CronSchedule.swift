// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCModel

/// Points in time as cron writes them: minute, hour, day of the month, month, day of the week (0 and 7 are Sunday). Pure.
///
/// Where both days are restricted, either suffices, as in cron. A time that a clock skips comes an hour later; one that it has twice
/// comes once.
struct CronSchedule: Sendable, Hashable, CustomStringConvertible {
    let description: String
    private let minutes: Set<Int>
    private let hours: Set<Int>
    private let days: Set<Int>
    private let months: Set<Int>
    private let weekdays: Set<Int>
    private let isAnyDay: Bool
    private let isAnyWeekday: Bool

    /// - Throws: ``PipelineError`` (`configuration`) that names the field.
    init(_ text: String) throws(PipelineError) {
        let parts = text.split(separator: " ").map(String.init)
        guard parts.count == 5 else {
            throw PipelineError(
                .configuration,
                "'\(text)' has \(parts.count) fields; write minute, hour, day, month and weekday, such as \"30 17 * * *\""
            )
        }
        description = text
        minutes = try Self.values(parts[0], 0...59, "minute")
        hours = try Self.values(parts[1], 0...23, "hour")
        days = try Self.values(parts[2], 1...31, "day")
        months = try Self.values(parts[3], 1...12, "month")
        weekdays = Set(try Self.values(parts[4], 0...7, "weekday").map { $0 % 7 })
        isAnyDay = parts[2] == "*"
        isAnyWeekday = parts[4] == "*"
    }

    private static func values(_ text: String, _ range: ClosedRange<Int>, _ name: String) throws(PipelineError) -> Set<
        Int
    > {
        var values: Set<Int> = []
        let problem = PipelineError(
            .configuration,
            "\(name) '\(text)': write *, numbers from \(range.lowerBound) to \(range.upperBound), ranges 1-5, steps */15, or a list"
        )
        for part in text.split(separator: ",", omittingEmptySubsequences: false) {
            let sides = part.split(separator: "/", omittingEmptySubsequences: false)
            guard (1...2).contains(sides.count), let step = sides.count == 2 ? Int(sides[1]) : 1, step > 0 else {
                throw problem
            }
            var bounds = range
            if sides[0] != "*" {
                let ends = sides[0].split(separator: "-", omittingEmptySubsequences: false)
                guard (1...2).contains(ends.count), let first = Int(ends[0]), let last = Int(ends[ends.count - 1]),
                    first <= last, range.contains(first), range.contains(last)
                else { throw problem }
                bounds = first...(sides.count == 2 && ends.count == 1 ? range.upperBound : last)
            }
            values.formUnion(stride(from: bounds.lowerBound, through: bounds.upperBound, by: step))
        }
        return values
    }

    /// The first point in time after another one; nil if there is none within eight years (30 February).
    func next(after time: Timestamp, in zone: TimeZone) -> Timestamp? {
        func local(_ seconds: Int64) -> Int64 {
            seconds + Int64(zone.secondsFromGMT(for: Date(timeIntervalSince1970: Double(seconds))))
        }
        let now = time.rawValue / 1_000
        var day = local(now) / 86_400
        for _ in 0..<2_930 {
            if matches(day) {
                for hour in hours.sorted() {
                    for minute in minutes.sorted() {
                        let wanted = day * 86_400 + Int64(hour * 3_600 + minute * 60)
                        // The offset of the place where it would be with the offset before it.
                        let guess = wanted - (local(wanted) - wanted)
                        let found = wanted - (local(guess) - guess)
                        if found > now { return Timestamp(found * 1_000) }
                    }
                }
            }
            day += 1
        }
        return nil
    }

    private func matches(_ day: Int64) -> Bool {
        let date = MIMEDate.civilDate(day)
        guard months.contains(date.month) else { return false }
        let isDay = days.contains(date.day)
        // 1 January 1970 was a Thursday.
        let isWeekday = weekdays.contains(Int((day + 4) % 7))
        return isAnyDay || isAnyWeekday ? isDay && isWeekday : isDay || isWeekday
    }
}
