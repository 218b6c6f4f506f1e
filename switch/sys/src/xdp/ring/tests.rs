//! The indices' logic, alone and, in every order that two threads can run in, under loom.
use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicU32 as Watched;

use super::*;

impl Index for Watched {
    fn load(&self, order: Ordering) -> u32 {
        self.load(order)
    }

    fn store(&self, value: u32, order: Ordering) {
        self.store(value, order);
    }
}

// SAFETY: as `Memory` has it, and loom looks whether it is kept.
unsafe impl Sync for Model {}

/// A ring in memory that loom watches: it says when both sides touch an entry without an order between them.
struct Model {
    producer: Watched,
    consumer: Watched,
    entries: Vec<UnsafeCell<u32>>,
}

impl Model {
    /// With both indices at `start`.
    fn new(size: u32, start: u32) -> Arc<Self> {
        let entries = (0..size).map(|_| UnsafeCell::new(0)).collect();
        Arc::new(Self { producer: Watched::new(start), consumer: Watched::new(start), entries })
    }

    fn entry(&self, index: u32) -> &UnsafeCell<u32> {
        &self.entries[index as usize % self.entries.len()]
    }
}

impl Memory for Arc<Model> {
    type Index = Watched;
    type Entry = u32;

    fn size(&self) -> u32 {
        self.entries.len() as u32
    }

    fn producer(&self) -> &Watched {
        &self.producer
    }

    fn consumer(&self) -> &Watched {
        &self.consumer
    }

    unsafe fn read(&self, index: u32) -> u32 {
        // SAFETY: the caller's promise, and loom looks whether it is kept.
        self.entry(index).with(|entry| unsafe { *entry })
    }

    unsafe fn write(&self, index: u32, value: u32) {
        // SAFETY: as above.
        self.entry(index).with_mut(|entry| unsafe { *entry = value });
    }
}

/// Entries arrive once, in order and as they were written, in every order that the two sides can run in; across the
/// wrap-around of the indices, and where slots are used again.
#[test]
fn what_goes_in_comes_out() {
    const ROUNDS: u32 = 3;
    loom::model(|| {
        let memory = Model::new(2, u32::MAX);
        let mut producer = Producer::new(Arc::clone(&memory));
        let other = loom::thread::spawn(move || {
            let mut sent = 0;
            for _ in 0..ROUNDS {
                let count = producer.room(2);
                (0..count).for_each(|ahead| producer.write(ahead, 100 + sent + ahead));
                producer.submit(count);
                sent += count;
            }
            sent
        });
        let mut consumer = Consumer::new(memory);
        let mut seen = 0;
        let mut take = || {
            let count = consumer.available(2);
            (0..count).for_each(|ahead| assert_eq!(consumer.read(ahead), 100 + seen + ahead));
            consumer.release(count);
            seen += count;
            (count, seen)
        };
        for _ in 0..ROUNDS {
            take();
        }
        let sent = other.join().unwrap();
        while take().0 > 0 {}
        assert_eq!(take().1, sent);
    });
}

/// Outside of a model, for what one thread can see.
fn alone(f: impl Fn() + Send + Sync + 'static) {
    loom::model(f);
}

/// The pitfall that the module's text names: little asked, little known; much asked, all known.
#[test]
fn who_asks_for_much_learns_of_all() {
    alone(|| {
        let memory = Model::new(8, 7);
        let (mut producer, mut consumer) = (Producer::new(Arc::clone(&memory)), Consumer::new(memory));
        assert_eq!((producer.room(u32::MAX), consumer.available(u32::MAX)), (8, 0));
        (0..7).for_each(|ahead| producer.write(ahead, ahead));
        producer.submit(7);
        assert_eq!((producer.room(8), producer.waiting()), (1, 7));
        assert_eq!(consumer.available(1), 1);
        consumer.release(1);
        assert_eq!(consumer.available(8), 6);
        consumer.release(6);
        // The old view has room for one.
        assert_eq!(producer.room(1), 1);
        assert_eq!(producer.room(2), 2);
        assert_eq!((producer.room(u32::MAX), producer.waiting()), (8, 0));
    });
}

#[test]
fn indices_that_make_no_sense_mean_nothing_there() {
    alone(|| {
        let memory = Model::new(4, 0);
        let (mut producer, mut consumer) =
            (Producer::new(Arc::clone(&memory)), Consumer::new(Arc::clone(&memory)));
        memory.producer.store(5, Ordering::Relaxed);
        memory.consumer.store(1, Ordering::Relaxed);
        assert_eq!((producer.room(u32::MAX), consumer.available(u32::MAX)), (0, 0));
    });
}

#[test]
#[should_panic = "no room in the ring"]
fn what_there_is_no_room_for_is_not_written() {
    alone(|| {
        let mut producer = Producer::new(Model::new(2, 0));
        (0..3).for_each(|ahead| producer.write(ahead, 0));
    });
}

/// Takes up a ring where another process has left it.
#[test]
fn a_ring_goes_on_where_it_was() {
    alone(|| {
        let memory = Model::new(4, u32::MAX - 1);
        let mut producer = Producer::new(Arc::clone(&memory));
        (0..3).for_each(|ahead| producer.write(ahead, ahead));
        producer.submit(3);
        let mut consumer = Consumer::new(Arc::clone(&memory));
        assert_eq!(consumer.available(4), 3);
        consumer.release(2);
        let (mut producer, mut consumer) = (Producer::new(Arc::clone(&memory)), Consumer::new(memory));
        assert_eq!((producer.room(4), consumer.available(4)), (3, 1));
        assert_eq!(consumer.read(0), 2);
    });
}
