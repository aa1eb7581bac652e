//! What does not belong is refused with its reason, and the node goes on serving.

mod support;

use defer_host::artifact::{GRAPH, MANIFEST, WEIGHTS};
use defer_host::build::GUEST;
use defer_host::pipeline::{ModelRef, PIPELINE_FORMAT_FOR_TESTS};
