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
mod clock;
pub mod deadline;
pub mod observe;
pub mod timeout;
pub mod upstream;
