//! Tower layers and upstream services for proxying MCP, HTTP and SSE.
pub mod body;
pub mod error;
pub mod exchange;
pub mod limit;
pub mod mcp;
pub mod metrics;
pub mod waits;
pub use body::Body;
pub use error::BoxError;
pub mod access_log;
mod clock;
pub mod deadline;
pub mod fault;
pub mod observe;
pub mod record;
pub mod rescue;
pub mod timeout;
pub mod upstream;
