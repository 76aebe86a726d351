//! An endpoint is a URL or a command; which of the two is seen by the key that is there.

use schemars::{Schema, json_schema};

use super::mistake::Mistakes;
use super::node::Node;
use super::raw::{RawHttp, RawStdio};
use super::read::Read;

/// An endpoint as the file has it.
#[derive(Clone, Debug)]
pub(super) enum RawEndpoint {
    Http(RawHttp),
    Stdio(RawStdio),
}

impl Read for RawEndpoint {
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        match (node.get("url"), node.get("command")) {
            (Some(_), None) => RawHttp::read(node, mistakes).map(Self::Http),
            (None, Some(_)) => RawStdio::read(node, mistakes).map(Self::Stdio),
            (Some(_), Some(_)) => {
                let message = "an endpoint is either a `url` or a `command`, and this is both";
                mistakes.error(&node.place, message, "remove one of the two");
                None
            }
            (None, None) => {
                let message = "an endpoint needs a `url` or a `command`";
                let cure =
                    "write `url: http://127.0.0.1:3001/mcp` or `command: [npx, -y, PACKAGE]`";
                mistakes.error(&node.place, message, cure);
                None
            }
        }
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [RawHttp::schema(), RawStdio::schema()] })
    }
}
