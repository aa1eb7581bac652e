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

macro_rules! line {
    ($name:literal, $text:literal) => {
        Sample { name: $name, png: include_bytes!(concat!("../samples/lines/", $name, ".png")), text: $text }
    };
}

/// More lines, in several fonts and sizes.
static LINES: [Sample; 24] = [
    line!("invoice", "Invoice No. 2026-0417"),
    line!("temperature", "Temperature 21.5 C, humidity 48 %"),
    line!("platform", "Platform 9, departs 14:32"),
    line!("warning", "CAUTION: HIGH VOLTAGE"),
    line!("address", "221B Baker Street, London NW1 6XE"),
    line!("serial", "S/N 8F3K-27QX-0091-ZT"),
    line!("quote", "The whole is more than the sum of its parts."),
    line!("price", "2 x Espresso 5.60"),
    line!("meeting", "Meeting moved to Thursday, 10 a.m."),
    line!("battery", "Battery 87 % remaining"),
    line!("recipe", "Add 250 ml of milk and stir well"),
    line!("flight", "LH 2041 MUC-CDG Gate K12"),
    line!("library", "Please return by 30 November"),
    line!("network", "Packets travel from node to node"),
    line!("phone", "+49 30 901820"),
    line!("dose", "Take one tablet twice a day"),
    line!("error", "error: connection refused (os error 111)"),
    line!("street", "No parking 8:00-18:00"),
    line!("book", "Chapter 12: A Bridge over the River"),
    line!("weight", "Net weight 1.75 kg"),
    line!("score", "HOME 3 : 1 GUESTS"),
    line!("receiver", "To: The Director, Room 415"),
    line!("version", "defer-host 0.1.0 for aarch64"),
    line!("weather", "Light rain in the afternoon"),
];

/// Printed lines besides [`samples`], to set something by.
pub fn calibration_lines() -> impl Iterator<Item = &'static Sample> {
    LINES.iter().step_by(2)
}

/// Printed lines that nothing was set by: what is claimed is tried on these.
pub fn trial_lines() -> impl Iterator<Item = &'static Sample> {
    LINES.iter().skip(1).step_by(2)
}

/// A page with the text of all [`samples`], a line each.
pub fn page() -> &'static Sample {
    &PAGE
}

/// The pictures of one line each that come with the program, each of another size.
pub fn samples() -> &'static [Sample] {
    &SAMPLES
}
