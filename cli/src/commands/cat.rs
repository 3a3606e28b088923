//! `siltstone cat`.

use crate::arguments::Cat;
use crate::error::{About as _, Error, Outcome, complain};
use crate::image::{Tree, reading};
use crate::location::ImagePath;
use crate::output::Output;

/// Bytes read at once.
const PIECE_BYTES: usize = 1 << 20;

pub(crate) async fn cat(arguments: Cat) -> Outcome<()> {
    reading(&arguments.image.name, async |_, tree| {
        let mut output = Output::new();
        let mut failed = false;
        for path in &arguments.paths {
            match print(tree, path, &mut output).await {
                Ok(()) => {}
                Err(Error::Failed(message)) => {
                    output.finish()?;
                    complain(message);
                    failed = true;
                }
                Err(error) => return Err(error),
            }
        }
        output.finish()?;
        if failed { Err(Error::Reported) } else { Ok(()) }
    })
    .await
}

async fn print(tree: &Tree, path: &ImagePath, output: &mut Output) -> Outcome<()> {
    let inode = tree
        .read(|tx| tx.files().resolve(path.bytes(), true))
        .await
        .about(path)?;
    let mut offset = 0;
    loop {
        let bytes = tree
            .read(|tx| tx.files().read(inode, offset, PIECE_BYTES))
            .await
            .about(path)?;
        if bytes.is_empty() {
            return Ok(());
        }
        offset += bytes.len() as u64;
        output.bytes(&bytes)?;
    }
}
