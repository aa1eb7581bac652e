//! Progress that is slow and progress that is none: a peer that began something goes on with it, or is cut off.

use axum::BoxError;
use axum::body::{Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Bytes that must come within the time that a peer may stall: with the default of 30 s, a line of 1,100 bit/s is fast
/// enough.
pub const LEAST: usize = 4096;

/// The peer did not go on with what it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the peer stood still: {got} bytes came in {seconds} s (--stall-timeout)", seconds = .window.as_secs_f32())]
pub struct Stalled {
    pub got: usize,
    pub window: Duration,
}

impl From<Stalled> for io::Error {
    fn from(stalled: Stalled) -> Self {
        Self::new(io::ErrorKind::TimedOut, stalled)
    }
}

/// Watches that at least [`LEAST`] bytes move in each window, or all that is left.
#[derive(Debug)]
pub struct Pace {
    window: Duration,
    moved: usize,
    /// What the peer has left of the window, …
    left: Duration,
    /// … which runs only while somebody waits for it: time that this process takes is not the peer's fault.
    end: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    pub fn new(window: Duration) -> Self {
        Self { window, moved: 0, left: window, end: None }
    }

    /// Notes that `bytes` moved.
    pub fn moved(&mut self, bytes: usize) {
        self.moved += bytes;
        if self.moved >= LEAST {
            self.restart();
        } else if let Some(end) = self.end.take() {
            self.left = end.deadline().saturating_duration_since(Instant::now());
        }
    }

    /// Something new begins.
    pub fn restart(&mut self) {
        self.moved = 0;
        self.left = self.window;
        self.end = None;
    }

    /// To be asked whenever the peer has nothing ready: completes when it has stood still for too long.
    pub fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<Stalled> {
        let end = self.end.get_or_insert_with(|| Box::pin(sleep(self.left)));
        ready!(end.as_mut().poll(cx));
        let stalled = Stalled { got: self.moved, window: self.window };
        self.restart();
        Poll::Ready(stalled)
    }
}

/// A socket whose peer may not stand still in the middle of what it sends, while [`Steady::begin`] says that there is
/// something, nor in taking what is sent to it.
#[derive(Debug)]
pub struct Steady<S> {
    inner: S,
    reading: Option<Pace>,
    read_window: Duration,
    writing: Pace,
}

impl<S> Steady<S> {
    pub fn new(inner: S, window: Duration) -> Self {
        Self { inner, reading: None, read_window: window, writing: Pace::new(window) }
    }

    /// What is watched.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// How long the peer may stand still from the next [`Steady::begin`] on.
    pub fn set_window(&mut self, window: Duration) {
        self.read_window = window;
    }

    /// From now on the peer owes the rest of something.
    pub fn begin(&mut self) {
        self.reading = Some(Pace::new(self.read_window));
    }

    /// The peer owes nothing: it may be silent for as long as it likes.
    pub fn rest(&mut self) {
        self.reading = None;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Steady<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        match Pin::new(&mut this.inner).poll_read(cx, buffer) {
            Poll::Pending => match &mut this.reading {
                Some(pace) => pace.poll_stalled(cx).map(|stalled| Err(stalled.into())),
                None => Poll::Pending,
            },
            ready => {
                if let Some(pace) = &mut this.reading {
                    pace.moved(buffer.filled().len() - before);
                }
                ready
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> Steady<S> {
    fn judge(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Pending => self.writing.poll_stalled(cx).map(|stalled| Err(stalled.into())),
            Poll::Ready(Ok(bytes)) => {
                self.writing.moved(bytes);
                Poll::Ready(Ok(bytes))
            }
            failed => failed,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Steady<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        if flushed.is_ready() {
            // The peer has taken all there was.
            self.writing.restart();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// The body of a request whose client may not stand still in the middle of it.
#[derive(Debug)]
pub struct Paced<B> {
    inner: Arc<Mutex<B>>,
    pace: Pace,
}

impl<B> Paced<B> {
    pub fn new(inner: B, window: Duration) -> Self {
        Self { inner: Arc::new(Mutex::new(inner)), pace: Pace::new(window) }
    }

    /// What is left of this body, once whoever has it lets go of it.
    pub fn rest(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), pace: Pace::new(self.pace.window) }
    }

    fn inner(&self) -> MutexGuard<'_, B> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> HttpBody for Paced<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let frame = Pin::new(&mut *this.inner()).poll_frame(cx);
        match frame {
            Poll::Pending => this.pace.poll_stalled(cx).map(|stalled| Some(Err(stalled.into()))),
            Poll::Ready(frame) => {
                if let Some(Ok(frame)) = &frame {
                    this.pace.moved(frame.data_ref().map_or(0, Bytes::len));
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner().size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    const WINDOW: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn dripping_is_standing_still_and_slow_is_not() {
        for (bytes, every, survives) in [(1, 20, false), (LEAST, 150, true)] {
            let (mut peer, ours) = duplex(1 << 16);
            let mut ours = Steady::new(ours, WINDOW);
            ours.begin();
            let drip = tokio::spawn(async move {
                let bytes = vec![7; bytes];
                for _ in 0..10 {
                    sleep(Duration::from_millis(every)).await;
                    if peer.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
            });
            let mut got = Vec::new();
            let result = ours.read_to_end(&mut got).await;
            assert_eq!(result.is_ok(), survives, "{bytes} bytes every {every} ms: {result:?}");
            if let Err(error) = result {
                assert!(error.to_string().contains("the peer stood still"), "{error}");
            }
            drop(ours);
            drip.await.unwrap();
        }
    }

    #[tokio::test]
    async fn time_between_two_answers_is_not_the_peers() {
        let (mut peer, ours) = duplex(8192);
        let mut ours = Steady::new(ours, WINDOW);
        let reader = tokio::spawn(async move {
            let mut got = vec![0; 3 * 9000];
            for part in got.chunks_mut(1500) {
                sleep(WINDOW / 10).await;
                if peer.read_exact(part).await.is_err() {
                    return false;
                }
            }
            true
        });
        for _ in 0..3 {
            // The last piece of each is smaller than what counts as progress.
            ours.write_all(&[1; 9000]).await.unwrap();
            ours.flush().await.unwrap();
            sleep(WINDOW * 2).await;
        }
        assert!(reader.await.unwrap());
    }

    #[tokio::test]
    async fn a_peer_that_owes_nothing_may_be_silent_and_one_that_takes_nothing_may_not() {
        let (mut peer, ours) = duplex(64);
        let mut ours = Steady::new(ours, WINDOW);
        ours.begin();
        ours.rest();
        let silence = tokio::time::timeout(WINDOW * 3, ours.read_u8()).await;
        assert!(silence.is_err(), "{silence:?}");
        peer.write_all(b"x").await.unwrap();
        assert_eq!(ours.read_u8().await.unwrap(), b'x');
        let error = ours.write_all(&[0; 1000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
