//! Loopback ports that stay ours.
//!
//! They are taken from below the kernel's ephemeral range, because an outgoing connection of anybody could take an
//! ephemeral one while its server is down between kill and restart; and a lock file for each keeps other harness
//! processes away from it for as long as we live.

use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;

use crate::error::{Error, Result};

const FIRST: u16 = 10_000;

/// A port that nobody else of this machine's test beds uses.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Finds a free one and keeps it.
    pub fn reserve() -> Result<Self> {
        let folder = lock_folder()?;
        let end = ephemeral_start().max(FIRST + 1000);
        let span = u64::from(end - FIRST);
        let start = RandomState::new().hash_one(std::process::id()) % span;
        for step in 0..span {
            let offset = u16::try_from((start + step) % span).unwrap_or_default();
            let number = FIRST + offset;
            let Ok(lock) = File::create(folder.join(number.to_string())) else {
                continue;
            };
            if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self { number, _lock: lock });
            }
        }
        Err(Error::Binaries(format!("no free loopback port between {FIRST} and {end}")))
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Its address on the loopback interface.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}

fn lock_folder() -> Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("jetgate-testbed-ports-{}", rustix::process::getuid().as_raw()));
    std::fs::create_dir_all(&folder).map_err(Error::doing(format!("make {}", folder.display())))?;
    Ok(folder)
}

fn ephemeral_start() -> u16 {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or(32_768)
}
