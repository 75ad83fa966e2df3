//! Whether the proxy wants to be sent metrics, and why not, in words: `/readyz`, `check-ready`.
//!
//! In: what `control/` knows. Out: words. Next: `http/` and `json.rs`.

/// Whether the proxy wants to be sent metrics. The same question as `health`, with the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Readiness {
    /// Every worker receives, and nobody says otherwise.
    Ready,
    /// Not every worker's receive is armed yet.
    #[default]
    Starting,
    /// A stop is under way.
    Stopping,
    /// The operator has set `health` to down.
    HealthDown,
}

impl Readiness {
    /// Whether it does.
    pub fn is_ready(self) -> bool {
        self == Readiness::Ready
    }

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Readiness::Ready => "ready: every worker receives",
            Readiness::Starting => "not ready: starting, not every worker receives yet",
            Readiness::Stopping => "not ready: a stop is under way",
            Readiness::HealthDown => {
                "not ready: health is down by command; the admin command health up ends that"
            }
        }
    }
}
