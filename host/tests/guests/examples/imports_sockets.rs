//! Reaches for the network, if it is let.
#![no_std]

use hostile_guests::*;

wit_bindgen::generate!({
    inline: "
        package hostile:sockets;
        world sockets { import wasi:sockets/instance-network@0.2.0; }
        package wasi:sockets@0.2.0 {
            interface network { resource network; }
            interface instance-network {
                use network.{network};
                instance-network: func() -> network;
            }
        }
    ",
    world: "hostile:sockets/sockets",
    generate_all,
});

misbehaves!(|inputs| {
    drop(wasi::sockets::instance_network::instance_network());
    compute(inputs)
});
