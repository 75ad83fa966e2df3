//! Numbers as people read them. Pure.
//!
//! In: plain numbers. Out: text for messages and reports.

use std::time::Duration;

/// A whole number with a comma between each three digits.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A rate, rounded.
pub fn rate(per_second: f64) -> String {
    // A float beyond the range becomes the nearest number of it.
    grouped(per_second.round() as u64)
}

/// `part` of `whole` in percent.
pub fn percent(part: f64, whole: f64) -> String {
    format!("{:.1} %", if whole > 0.0 { 100.0 * part / whole } else { 0.0 })
}

/// A quotient with one decimal; `-` if the divisor is 0.
pub fn quotient(part: f64, whole: f64) -> String {
    if whole > 0.0 { format!("{:.1}", part / whole) } else { "-".to_owned() }
}

/// Microseconds in the unit that fits.
pub fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

/// Time since the start: seconds, from two minutes on as a clock.
pub fn clock(elapsed: Duration) -> String {
    let s = elapsed.as_secs();
    match s {
        0..120 => format!("{s} s"),
        120..3_600 => format!("{}:{:02}", s / 60, s % 60),
        _ => format!("{}:{:02}:{:02}", s / 3_600, s / 60 % 60, s % 60),
    }
}

/// `1 metric`, `2 metrics`, `1,234 metrics`.
pub fn count(number: impl TryInto<u64>, noun: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    format!("{} {}", grouped(number), plural(number, noun))
}

/// `metric` for one, else `metrics`.
pub fn plural(number: u64, noun: &str) -> String {
    format!("{noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let numbers = [0, 999, 1_000, 12_345, 123_456, 1_234_567];
        assert_eq!(numbers.map(grouped), ["0", "999", "1,000", "12,345", "123,456", "1,234,567"]);
        assert_eq!(rate(19_999.6), "20,000");
        assert_eq!(rate(f64::NAN), "0");
        assert_eq!((percent(1.0, 3.0), percent(1.0, 0.0)), ("33.3 %".to_owned(), "0.0 %".to_owned()));
        assert_eq!((quotient(7.0, 2.0), quotient(7.0, 0.0)), ("3.5".to_owned(), "-".to_owned()));
        assert_eq!(
            [0, 999, 1_000, 12_340, 2_500_000].map(micros),
            ["0 µs", "999 µs", "1.0 ms", "12.3 ms", "2.5 s"]
        );
        assert_eq!(
            [0, 119, 120, 3_599, 86_399].map(|s| clock(Duration::from_secs(s))),
            ["0 s", "119 s", "2:00", "59:59", "23:59:59"]
        );
        assert_eq!((count(1, "metric"), count(2, "metric")), ("1 metric".to_owned(), "2 metrics".to_owned()));
    }
}
