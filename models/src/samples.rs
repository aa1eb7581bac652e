//! Small pictures of printed text, with the text that they hold.

/// A picture that comes with the program.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub name: &'static str,
    /// A PNG file.
    pub png: &'static [u8],
    /// What is printed in it, which is also what the `ocr-rec` network reads, to the letter.
    pub text: &'static str,
}

static SAMPLES: [Sample; 3] = [
    Sample { name: "label", png: include_bytes!("../samples/label.png"), text: "Raspberry Pi 4" },
    Sample { name: "receipt", png: include_bytes!("../samples/receipt.png"), text: "TOTAL 42.17 EUR" },
    Sample {
        name: "sentence",
        png: include_bytes!("../samples/sentence.png"),
        text: "Many small machines carry one large network.",
    },
];

/// All of them on one page.
static PAGE: Sample = Sample {
    name: "page",
    png: include_bytes!("../samples/page.png"),
    text: "Raspberry Pi 4\nTOTAL 42.17 EUR\nMany small machines carry one large network.",
};

/// A page with the text of all [`samples`], a line each.
pub fn page() -> &'static Sample {
    &PAGE
}

/// The pictures of one line each that come with the program, each of another size.
pub fn samples() -> &'static [Sample] {
    &SAMPLES
}
