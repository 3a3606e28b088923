//! What one client was promised, and whether a machine keeps it after a power cut.
//!
//! One client owns its keys and sends *batches* of *steps*: a step is one command, or several in
//! MULTI/EXEC. The whole promise is one rule. After a power cut the client's keys look like the
//! state of every acknowledged step, followed by the first *n* of the steps in flight, for some *n*:
//! acknowledged steps are there, the others happened wholly or not at all, and none overtook another.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What a set of keys holds.
pub type Contents = BTreeMap<String, Vec<u8>>;

/// A command with a plain effect on one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// SET
    Set(String, Vec<u8>),
    /// APPEND
    Append(String, Vec<u8>),
    /// INCR
    Increment(String),
    /// DEL
    Delete(String),
}

impl Operation {
    /// The key it touches.
    pub fn key(&self) -> &str {
        match self {
            Self::Set(key, _) | Self::Append(key, _) | Self::Increment(key) | Self::Delete(key) => {
                key
            }
        }
    }

    fn brief(&self) -> String {
        match self {
            Self::Set(key, value) => format!("SET {key} {}", brief(Some(value))),
            Self::Append(key, tail) => format!("APPEND {key} {}", brief(Some(tail))),
            Self::Increment(key) => format!("INCR {key}"),
            Self::Delete(key) => format!("DEL {key}"),
        }
    }

    fn apply(&self, contents: &mut Contents) {
        match self {
            Self::Set(key, value) => {
                contents.insert(key.clone(), value.clone());
            }
            Self::Append(key, tail) => contents.entry(key.clone()).or_default().extend(tail),
            Self::Increment(key) => {
                let old = contents.get(key).map_or(0, |digits| {
                    let digits = std::str::from_utf8(digits).expect("a counter is decimal");
                    digits.parse::<u64>().expect("a counter is decimal")
                });
                contents.insert(key.clone(), (old + 1).to_string().into_bytes());
            }
            Self::Delete(key) => {
                contents.remove(key);
            }
        }
    }
}

/// What happens wholly or not at all.
pub type Step = Vec<Operation>;

/// The promises to one client.
#[derive(Debug, Default)]
pub struct Ledger {
    acknowledged: Contents,
    in_flight: VecDeque<Step>,
    keys: BTreeSet<String>,
}

impl Ledger {
    /// Notes steps that are about to be sent.
    pub fn send(&mut self, batch: impl IntoIterator<Item = Step>) {
        for step in batch {
            self.keys
                .extend(step.iter().map(|operation| operation.key().to_owned()));
            self.in_flight.push_back(step);
        }
    }

    /// Notes that the oldest step in flight was acknowledged.
    pub fn acknowledge(&mut self) {
        let step = self
            .in_flight
            .pop_front()
            .expect("a reply follows a request");
        apply(&step, &mut self.acknowledged);
    }

    /// All keys ever touched.
    pub fn keys(&self) -> impl Iterator<Item = &String> {
        self.keys.iter()
    }

    /// What was promised, without what is in flight.
    pub fn acknowledged(&self) -> &Contents {
        &self.acknowledged
    }

    /// Checks what a machine holds after a power cut, for all of [`Ledger::keys`], and takes it as
    /// acknowledged: what was once read back may not be lost later. Returns how many of the steps in
    /// flight had happened.
    ///
    /// # Errors
    /// A description of the broken promise.
    pub fn settle(&mut self, found: Contents) -> Result<usize, String> {
        let mut expected = self.acknowledged.clone();
        let mut closest = differences(&expected, &found);
        let mut happened = 0;
        for step in &self.in_flight {
            if closest.is_empty() {
                break;
            }
            happened += 1;
            apply(step, &mut expected);
            let candidate = differences(&expected, &found);
            if candidate.len() < closest.len() || candidate.is_empty() {
                closest = candidate;
            }
        }
        if !closest.is_empty() {
            return Err(format!(
                "no number of the {} steps in flight explains what was found; nearest miss:\n{}\nin flight:\n{}",
                self.in_flight.len(),
                closest.join("\n"),
                self.describe_in_flight(),
            ));
        }
        self.in_flight.clear();
        self.acknowledged = found;
        Ok(happened)
    }

    fn describe_in_flight(&self) -> String {
        let describe = |step: &Step| {
            let operations: Vec<_> = step.iter().map(Operation::brief).collect();
            format!("  {}", operations.join("; "))
        };
        self.in_flight
            .iter()
            .map(describe)
            .collect::<Vec<_>>()
            .join("\n")
    }
}

fn apply(step: &Step, contents: &mut Contents) {
    for operation in step {
        operation.apply(contents);
    }
}

fn differences(expected: &Contents, found: &Contents) -> Vec<String> {
    let keys: BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    keys.into_iter()
        .filter(|key| expected.get(*key) != found.get(*key))
        .map(|key| {
            let (expected, found) = (brief(expected.get(key)), brief(found.get(key)));
            format!("  {key}: expected {expected}, found {found}")
        })
        .collect()
}

fn brief(value: Option<&Vec<u8>>) -> String {
    value.map_or_else(
        || "nothing".to_owned(),
        |value| {
            format!(
                "{} bytes \"{}\"",
                value.len(),
                value[..value.len().min(24)].escape_ascii()
            )
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(key: &str, value: &str) -> Operation {
        Operation::Set(key.into(), value.into())
    }

    fn contents<const N: usize>(pairs: [(&str, &str); N]) -> Contents {
        pairs
            .into_iter()
            .map(|(key, value)| (key.into(), value.into()))
            .collect()
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.send([
            vec![set("a", "1")],
            vec![set("a", "2"), Operation::Increment("n".into())],
            vec![Operation::Delete("a".into())],
        ]);
        ledger.acknowledge();
        ledger
    }

    #[test]
    fn any_prefix_of_the_steps_in_flight_is_fine() {
        assert_eq!(ledger().settle(contents([("a", "1")])), Ok(0));
        assert_eq!(ledger().settle(contents([("a", "2"), ("n", "1")])), Ok(1));
        assert_eq!(ledger().settle(contents([("n", "1")])), Ok(2));
    }

    #[test]
    fn a_lost_promise_half_a_step_and_an_overtaken_step_are_not() {
        for broken in [
            contents([]),
            contents([("a", "2")]),
            contents([("a", "1"), ("n", "1")]),
            contents([("a", "1"), ("b", "1")]),
        ] {
            assert!(ledger().settle(broken.clone()).is_err(), "{broken:?}");
        }
    }
}
