//! Packets that the kernel fragments, as text: what is too long, and the remedy. Pure.
//!
//! In: a [`Fragmentation`]. Out: text. Next: `degraded:` in `status`, and the log of `control/`.

use crate::stats::Fragmentation;

/// What is fragmented, and what to do about it; `is_auto`: `maxPacketSize` is `auto`.
pub fn fragmentation_message(fragmentation: Fragmentation, is_auto: bool) -> String {
    let (what, bytes, path_bytes) = match fragmentation {
        Fragmentation::Packets { packet_bytes, path_bytes } => ("packets", packet_bytes, path_bytes),
        Fragmentation::LongMetric { metric_bytes, path_bytes } => ("metrics", metric_bytes, path_bytes),
    };
    let remedy = match fragmentation {
        Fragmentation::LongMetric { .. } => "shorten their names and tags, or raise the MTU".to_owned(),
        // Paths that take less than `auto` makes.
        Fragmentation::Packets { .. } if is_auto => {
            format!("raise the MTU, or set maxPacketSize to {path_bytes} or less")
        }
        Fragmentation::Packets { .. } => {
            format!("set maxPacketSize to \"auto\", or to {path_bytes} or less")
        }
    };
    format!(
        "{what} of up to {bytes} bytes exceed the path MTU, which permits {path_bytes}: they are sent in IP fragments, counted \
         in packets_fragmented; {remedy}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_depends_on_what_is_too_long() {
        let packets = Fragmentation::Packets { packet_bytes: 1_432, path_bytes: 1_372 };
        assert_eq!(
            fragmentation_message(packets, false),
            "packets of up to 1432 bytes exceed the path MTU, which permits 1372: they are sent in IP fragments, counted in \
             packets_fragmented; set maxPacketSize to \"auto\", or to 1372 or less"
        );
        let packets = Fragmentation::Packets { packet_bytes: 512, path_bytes: 300 };
        assert!(
            fragmentation_message(packets, true)
                .ends_with("; raise the MTU, or set maxPacketSize to 300 or less")
        );
        let metric = Fragmentation::LongMetric { metric_bytes: 2_000, path_bytes: 1_472 };
        let message = fragmentation_message(metric, true);
        assert!(
            message.starts_with("metrics of up to 2000 bytes")
                && message.ends_with("; shorten their names and tags, or raise the MTU"),
            "{message}"
        );
    }
}
