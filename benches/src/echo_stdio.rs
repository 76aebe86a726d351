//! The echo server over stdio: a JSON-RPC message on each line. Everything that one read brings is answered
//! with one write.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use crate::echo::{self, Answer};
use crate::rpc::Request;

/// What is read at once, and about how much is gathered before it is written.
const CHUNK: usize = 64 * 1024;

/// Answers until stdin ends.
pub(crate) fn run() -> io::Result<()> {
    // Files of their own: the standard handles have buffers, and ours are enough.
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut chunk = vec![0; CHUNK];
    let mut unread = Vec::new();
    let mut out = Vec::new();
    loop {
        let read = input.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        let mut searched = unread.len();
        unread.extend_from_slice(&chunk[..read]);
        let mut start = 0;
        while let Some(end) = memchr::memchr(b'\n', &unread[searched..]) {
            answer(&unread[start..searched + end], &mut out, &mut output)?;
            searched += end + 1;
            start = searched;
        }
        unread.drain(..start);
        flush(&mut out, &mut output)?;
    }
}

fn answer(line: &[u8], out: &mut Vec<u8>, output: &mut File) -> io::Result<()> {
    let request: Request<'_> = serde_json::from_slice(line)?;
    match echo::answer(&request) {
        Answer::Nothing => {}
        Answer::Message(message) => add(&message, out, output)?,
        Answer::Stream(messages) => {
            for message in messages {
                add(&message, out, output)?;
            }
        }
    }
    Ok(())
}

fn add(message: &str, out: &mut Vec<u8>, output: &mut File) -> io::Result<()> {
    out.extend_from_slice(message.as_bytes());
    out.push(b'\n');
    if out.len() >= CHUNK {
        flush(out, output)?;
    }
    Ok(())
}

fn flush(out: &mut Vec<u8>, output: &mut File) -> io::Result<()> {
    output.write_all(out)?;
    out.clear();
    Ok(())
}
