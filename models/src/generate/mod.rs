//! Networks written by this program: the architecture of a known one, with random weights.
//!
//! Every byte is the same on every machine: integers and IEEE additions, multiplications, divisions and square roots
//! only, in a fixed order, nothing from the platform's mathematics library.

mod attributes;
mod bert;
mod builder;
mod graph;
mod maps;
mod mobilenetv2;
mod parameter;
mod random;
mod resnet50;
mod vgg;

use crate::catalogue::Generator;
use std::io::{self, Write};

/// Writes the `.onnx` file of `generator` to `out`, in blocks and without holding it in memory as a whole.
pub(crate) fn write(generator: Generator, out: &mut dyn Write) -> io::Result<()> {
    match generator {
        Generator::ResNet50 => resnet50::write(out),
        Generator::Vgg16 => vgg::write(&vgg::VGG16, out),
        Generator::Vgg19 => vgg::write(&vgg::VGG19, out),
        Generator::MobileNetV2 => mobilenetv2::write(out),
        Generator::BertMini => bert::write(&bert::MINI, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Hashed;
    use crate::catalogue::{Origin, catalogue};

    fn digest(generator: Generator) -> String {
        let mut hashed = Hashed::new(io::sink());
        write(generator, &mut hashed).unwrap();
        hashed.digest()
    }

    fn check(names: &[&str]) {
        let mut wrong = Vec::new();
        for entry in catalogue().iter().filter(|entry| names.contains(&entry.name)) {
            let Origin::Generated(generator) = entry.origin else { panic!("{} is not generated", entry.name) };
            let got = digest(generator);
            if got != entry.sha256 {
                wrong.push((entry.name, got));
            }
        }
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    #[test]
    #[cfg_attr(debug_assertions, ignore = "takes minutes without optimisation")]
    fn small_networks_have_the_bytes_that_the_catalogue_says() {
        check(&["mobilenetv2", "bert-mini"]);
    }

    #[test]
    #[cfg_attr(debug_assertions, ignore = "takes minutes without optimisation")]
    fn large_networks_have_the_bytes_that_the_catalogue_says() {
        check(&["vgg16", "vgg19"]);
    }
}
