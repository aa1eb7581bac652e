//! No encoding. As a codec it is not even called: the receive buffer is the tensor. Under other layers it ends the chain.

use super::layer::{Fault, Form, Layer, Unfit};
use crate::buffer::Pool;

pub(super) struct Raw;

impl Layer for Raw {
    fn encode(&self, cells: &[u8], _: &Form<'_>, out: &mut Vec<u8>, _: &Pool) -> Result<(), Unfit> {
        out.extend_from_slice(cells);
        Ok(())
    }

    fn decode(&self, data: &[u8], form: &Form<'_>, out: &mut Vec<u8>, _: &Pool) -> Result<(), Fault> {
        if data.len() != form.len() {
            return Err(Fault::Length { got: data.len(), want: form.len() });
        }
        out.extend_from_slice(data);
        Ok(())
    }

    fn is_raw(&self) -> bool {
        true
    }
}
