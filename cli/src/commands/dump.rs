//! `siltstone dump`.

use lfs::host::Access;
use lfs::{DumpEvent, DumpField, DumpOptions};
use serde_json::{Map, Value};

use crate::arguments::Dump;
use crate::error::Outcome;
use crate::image::{expect_file_system, open_whole};
use crate::key::{self, Key};
use crate::output::{Output, put_text};

pub(crate) async fn dump(arguments: Dump) -> Outcome<()> {
    let name = &arguments.image.name;
    let device = open_whole(name, "a dump is", Access::Read)?;
    let key = key::given()?;
    let key = key.as_ref().map(Key::unlock);
    expect_file_system(&device, name, key.as_ref()).await?;
    let options = DumpOptions {
        key,
        segments: !arguments.log,
        older_groups: !arguments.log,
    };
    let mut output = Output::new();
    let mut outcome = Ok(());
    let mut event = |event: DumpEvent<'_>| {
        // Once nobody reads any more, the rest is passed over.
        if outcome.is_ok() {
            outcome = if arguments.json {
                output.json(object(&event))
            } else {
                output.text(format_args!("{event}\n"))
            };
        }
    };
    lfs::dump(&device, options, &mut event).await;
    outcome?;
    output.finish()
}

/// An event as JSON: `kind` says which, the others are its fields.
fn object(event: &DumpEvent<'_>) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("kind".to_owned(), event.kind().into());
    event.fields(&mut |name, field| {
        let value = match field {
            DumpField::Flag(yes) => yes.into(),
            DumpField::Number(number) => number.into(),
            DumpField::Signed(number) => number.into(),
            DumpField::Numbers(numbers) => numbers.into(),
            DumpField::Name(bytes) => return put_text(&mut object, name, bytes),
            // Read in digits of another base, or words.
            other => other.to_string().into(),
        };
        object.insert(name.to_owned(), value);
    });
    object
}
