//! ResNet-50 "v1.5": He et al., 2015 (<https://arxiv.org/abs/1512.03385>), with the stride in a block's 3 × 3
//! convolution instead of its first, as torchvision has it.

use super::builder::{Builder, Value};
use super::maps::Window;
use std::io::{self, Write};

const SEED: u64 = 50;
const SIDE: usize = 224;
/// Side of the pictures that are measured on: enough that the deepest layers still see 3 × 3 positions.
const MEASURED: usize = 96;
const CLASSES: usize = 1000;
/// Blocks per stage, and channels inside a block; a block's output has four times as many.
const STAGES: [(usize, usize); 4] = [(3, 64), (4, 128), (6, 256), (3, 512)];
const EXPANSION: usize = 4;
/// Scale of a block's last BatchNormalization: small, so that sixteen sums in a row stay in range.
const BRANCH_SCALE: f64 = 0.5;
/// Spread of the logits over the made-up pictures. Over larger, real ones it comes out some ten times as wide, which
/// leaves a softmax that is neither flat nor all in one class.
const LOGIT_DEVIATION: f64 = 0.5;

/// Writes the network: input `input` FP32 \[N,3,224,224\], output `logits` FP32 \[N,1000\]. The residual sums are `add_1` … `add_16`, the ReLU
/// after each `add_N_relu`; what is inside block N is `block_N_…`.
pub(super) fn write(out: &mut dyn Write) -> io::Result<()> {
    let mut net = Builder::new("resnet50", SEED);
    let input = net.picture("input", 3, SIDE, MEASURED);
    let x = net.conv("stem_conv", &input, STAGES[0].1, Window { size: 7, stride: 2, padding: 3 });
    let x = net.batch_norm("stem_bn", x, 1.0);
    let x = net.relu("stem_relu", x);
    let mut x = net.max_pool("stem_pool", &x, Window { size: 3, stride: 2, padding: 1 });

    let mut number = 0;
    for (stage, &(blocks, channels)) in STAGES.iter().enumerate() {
        for block in 0..blocks {
            number += 1;
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            x = bottleneck(&mut net, number, &x, channels, stride);
        }
    }

    let x = net.average_and_flatten("pool", "flatten", &x);
    net.dense("fc", "logits", &x, CLASSES, LOGIT_DEVIATION);
    net.write("ResNet-50 v1.5 with random weights. It was never trained: its answers mean nothing.", out)
}

fn bottleneck(net: &mut Builder, number: usize, input: &Value, channels: usize, stride: usize) -> Value {
    let name = |part: &str| format!("block_{number}_{part}");
    let point = |stride| Window { stride, ..Window::POINT };
    let out = channels * EXPANSION;

    let x = net.conv(&name("conv_1"), input, channels, point(1));
    let x = net.batch_norm(&name("bn_1"), x, 1.0);
    let x = net.relu(&name("relu_1"), x);
    let x = net.conv(&name("conv_2"), &x, channels, Window { size: 3, stride, padding: 1 });
    let x = net.batch_norm(&name("bn_2"), x, 1.0);
    let x = net.relu(&name("relu_2"), x);
    let x = net.conv(&name("conv_3"), &x, out, point(1));
    let branch = net.batch_norm(&name("bn_3"), x, BRANCH_SCALE);

    let add = format!("add_{number}");
    let sum = if input.channels() == out {
        net.add(&add, branch, input)
    } else {
        let x = net.conv(&name("conv_down"), input, out, point(stride));
        let shortcut = net.batch_norm(&name("bn_down"), x, 1.0);
        net.add(&add, branch, &shortcut)
    };
    net.relu(&format!("add_{number}_relu"), sum)
}
