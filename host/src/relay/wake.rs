//! When the kernel wakes who waits for bytes: by default at each segment that comes in, dozens of times in a frame of some
//! megabytes, and each time costs a change of threads, two system calls, and often an interrupt of another core.
#![allow(unsafe_code)] // a socket option that rustix does not have

use std::fs;
use std::os::fd::AsRawFd as _;
use std::sync::LazyLock;
use tokio::io::AsyncRead;
use tokio::net::tcp::OwnedReadHalf;

/// Bytes that come from somewhere.
pub trait Source: AsyncRead + Unpin {
    /// Asks that nobody is woken before `bytes` bytes, 1 or more, can be read, or the stream has ended. Gives whether that
    /// will be so.
    fn wake_at(&self, bytes: usize) -> bool;
}

/// Whether this kernel wakes again once the number of bytes is lowered, and makes room for it: Linux does since 4.18. Older ones
/// (4.9 runs on many a Jetson) could leave a reader asleep with bytes before it.
static DEPENDABLE: LazyLock<bool> =
    LazyLock::new(|| fs::read_to_string("/proc/sys/kernel/osrelease").is_ok_and(|release| is_dependable(&release)));

fn is_dependable(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    matches!((numbers.next(), numbers.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (4, 18))
}

impl Source for OwnedReadHalf {
    fn wake_at(&self, bytes: usize) -> bool {
        if !*DEPENDABLE {
            return false;
        }
        let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
        let len = size_of::<libc::c_int>() as libc::socklen_t;
        let stream: &tokio::net::TcpStream = self.as_ref();
        let fd = stream.as_raw_fd();
        // SAFETY: the descriptor is that of a socket which lives as long as `self`; the option is one int, of that length.
        unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, (&raw const bytes).cast(), len) == 0 }
    }
}

/// Bytes in memory keep nobody waiting.
impl Source for &[u8] {
    fn wake_at(&self, _: usize) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use crate::buffer::Pool;
    use crate::relay::codec::{self, Codec};
    use crate::relay::frame::{self, Kind, Part, Tag};
    use crate::relay::link::split;
    use crate::relay::{Frame, FrameReader, FrameWriter, Limits, LinkError};
    use defer_partition::{DType, Tensor};
    use std::io;
    use std::time::Duration;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::{sleep, timeout};

    #[test]
    fn old_kernels_are_told_apart() {
        for (release, want) in [
            ("4.9.337-tegra", false),
            ("4.18.0", true),
            ("4.17.19-1", false),
            ("6.1.0-28-arm64\n", true),
            ("5.15", true),
            ("10.0-rc1", true),
            ("linux", false),
            ("", false),
        ] {
            assert_eq!(super::is_dependable(release), want, "{release}");
        }
    }

    /// A tensor that is waited for in three goes.
    const LEN: usize = 2_500_000;

    fn data(seed: usize) -> Vec<u8> {
        (0..LEN).map(|at| (at * 31 + at / 4096 + seed) as u8).collect()
    }

    /// A data frame's bytes.
    fn frame(seed: usize) -> Vec<u8> {
        let tensor = Tensor { dtype: DType::Uint8, shape: vec![LEN], data: data(seed) };
        let parts = [Part { name: 0, tensor: codec::encode(tensor, Codec::Raw, &Pool::new(0)) }];
        let mut bytes = frame::write_head(Kind::Data, &Tag::default(), &frame::data_head(&parts), LEN as u64);
        bytes.extend_from_slice(&parts[0].tensor.data);
        bytes
    }

    async fn connected(stall: Duration) -> (TcpStream, FrameReader, FrameWriter) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let limits = Limits { max_tensor: LEN, max_parts: 1, pool: Pool::new(0), stall };
        let (reader, writer) = split(listener.accept().await.unwrap().0, limits).unwrap();
        (peer, reader, writer)
    }

    #[tokio::test]
    async fn frames_come_whole_and_in_order_however_their_bytes_trickle() {
        let (mut peer, mut reader, _writer) = connected(Duration::from_secs(60)).await;
        let sender = tokio::spawn(async move {
            // Pieces that end in every part of a frame; now and then nothing comes for longer than is waited for.
            for (seed, piece) in [(1, 30_000), (2, usize::MAX), (3, 900_001)] {
                for (at, bytes) in frame(seed).chunks(piece).enumerate() {
                    peer.write_all(bytes).await.unwrap();
                    sleep(Duration::from_millis(if at == 1 { 300 } else { 0 })).await;
                }
                // Too small for anything that is waited for in a tensor.
                peer.write_all(&frame::write_head(Kind::Ping, &Tag::default(), &[], 0)).await.unwrap();
                sleep(Duration::from_millis(20)).await;
            }
            peer
        });
        for seed in 1..=3 {
            let mut next = async || timeout(Duration::from_secs(60), reader.next()).await.unwrap().unwrap();
            let Some(Frame::Data(_, parts)) = next().await else { panic!("no data frame {seed}") };
            assert!(parts[0].tensor.data == data(seed), "frame {seed}");
            assert!(matches!(next().await, Some(Frame::Ping)), "after frame {seed}");
        }
        drop(sender.await.unwrap());
        assert!(reader.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn who_stops_within_a_tensor_is_cut_off() {
        let (mut peer, mut reader, _writer) = connected(Duration::from_millis(400)).await;
        peer.write_all(&frame(1)[..LEN / 2]).await.unwrap();
        let result = timeout(Duration::from_secs(60), reader.next()).await.unwrap();
        assert!(matches!(&result, Err(LinkError::Io(error)) if error.kind() == io::ErrorKind::TimedOut), "{result:?}");
        let (mut peer, mut reader, _writer) = connected(Duration::from_secs(60)).await;
        peer.write_all(&frame(1)[..LEN / 2]).await.unwrap();
        drop(peer);
        let result = timeout(Duration::from_secs(60), reader.next()).await.unwrap();
        assert!(matches!(&result, Err(LinkError::Truncated)), "{result:?}");
    }
}
