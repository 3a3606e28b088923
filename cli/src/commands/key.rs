//! `siltstone key`.

use lfs::host::Access;
use lfs::{KdfCost, KeyAccessError, KeyChange, KeyError, Mirror, Suite};
use serde_json::{Map, Value};

use crate::arguments::{Key, KeyCommand, KeyList, KeyNew};
use crate::error::{Error, Outcome};
use crate::image::open_whole;
use crate::key;
use crate::location::ImageName;
use crate::output::Output;

pub(crate) async fn key(arguments: Key) -> Outcome<()> {
    match arguments.command {
        KeyCommand::Add(arguments) => {
            let new = new_key(&arguments)?;
            let change = KeyChange::Add(new.secret(), KdfCost::DEFAULT);
            let slot = change_keys(&arguments.image.name, change).await?;
            say(format_args!("slot {slot}\n"))
        }
        KeyCommand::Rotate(arguments) => {
            let new = new_key(&arguments)?;
            let change = KeyChange::Replace(new.secret(), KdfCost::DEFAULT);
            let slot = change_keys(&arguments.image.name, change).await?;
            say(format_args!("slot {slot}\n"))
        }
        KeyCommand::Rm(arguments) => {
            let change = KeyChange::Remove(arguments.slot);
            change_keys(&arguments.image.name, change).await?;
            Ok(())
        }
        KeyCommand::List(arguments) => list(&arguments).await,
    }
}

fn new_key(arguments: &KeyNew) -> Outcome<key::Key> {
    let Some(origin) = arguments.origin() else {
        return Err(Error::Usage("a new key is needed".to_owned()));
    };
    key::Key::new(&origin)
}

fn say(text: std::fmt::Arguments<'_>) -> Outcome<()> {
    let mut output = Output::new();
    output.text(text)?;
    output.finish()
}

async fn change_keys(name: &ImageName, change: KeyChange<'_>) -> Outcome<usize> {
    // Of a mirror, so that the other disk gets the new slots when it is back.
    let device = Mirror::open(vec![open_whole(name, "keys are", Access::Write)?], [0; 16]).await;
    let device = device.map_err(|error| Error::new(name, error))?;
    let Some(key) = key::given()? else {
        let message =
            format!("{name}: --key-file or --passphrase-file names the key that opens it now");
        return Err(Error::Usage(message));
    };
    lfs::change_keys(&device, &key.unlock(), change)
        .await
        .map_err(|error| Error::new(name, error))
}

async fn list(arguments: &KeyList) -> Outcome<()> {
    let name = &arguments.image.name;
    let device = open_whole(name, "keys are", Access::Read)?;
    let found = lfs::key_slots(&device).await;
    let (suite, slots): (Suite, _) = found.map_err(|error| match error {
        KeyAccessError::Key(KeyError::NotEncrypted) => {
            Error::new(name, "it is not encrypted, so it has no keys")
        }
        error => Error::new(name, error),
    })?;
    let mut output = Output::new();
    for info in slots {
        let kind = match info.passphrase {
            None => "key file",
            Some(_) => "passphrase",
        };
        if arguments.json {
            let mut object = Map::new();
            object.insert("slot".to_owned(), info.slot.into());
            object.insert("kind".to_owned(), kind.into());
            object.insert("cipher".to_owned(), Value::from(suite.to_string()));
            output.json(object)?;
        } else {
            output.text(format_args!("{}\t{kind}\n", info.slot))?;
        }
    }
    output.finish()
}
