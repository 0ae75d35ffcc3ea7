//! The preflight: what the destination's file system can do.

use std::fs;
use std::path::{Path, PathBuf};

use lakeward_core::Finding;
use rustix::fs::{CWD, RenameFlags, renameat_with, statvfs};

use crate::durable::sync_dir;
use crate::layout::LOG_ROOT;

/// Below this much free space a warning is given.
const LOW_SPACE: u64 = 1 << 30;

/// Looks at the directory, or at the nearest ancestor that exists; leaves nothing behind.
pub(crate) fn findings(root: &Path) -> Vec<Finding> {
    let subject = root.display().to_string();
    let Some(existing) =
        root.ancestors().find(|path| path.as_os_str().is_empty() || path.exists()).map(|path| {
            match path.as_os_str().is_empty() {
                true => PathBuf::from("."),
                false => path.to_owned(),
            }
        })
    else {
        return vec![Finding::error(subject, "the path has no directory above it", "name a directory")];
    };
    if !existing.is_dir() {
        return vec![Finding::error(
            existing.display().to_string(),
            "this is a file",
            "let `path` name a directory",
        )];
    }
    let probe = existing.join(format!("{LOG_ROOT}-check-{}", ulid::Ulid::new()));
    if let Err(e) = fs::create_dir(&probe) {
        return vec![Finding::error(
            existing.display().to_string(),
            format!("cannot be written to: {e}"),
            "let the user that runs lakeward write to it",
        )];
    }
    let mut findings =
        vec![Finding::ok(&subject, if existing == root { "writable" } else { "will be made" })];
    findings.push(exclusive_link(&subject, &probe));
    findings.push(exchange(&subject, &probe));
    findings.push(match fs::File::create(probe.join("synced")).and_then(|f| f.sync_all()) {
        Ok(()) if sync_dir(&probe).is_ok() => Finding::ok(&subject, "files and directories can be synced"),
        _ => Finding::error(&subject, "files or directories cannot be synced", "use a local file system"),
    });
    findings.extend(free_space(&subject, &probe));
    // Empty files in a directory of a random name: nobody misses them if this fails.
    let _ = fs::remove_dir_all(&probe);
    findings
}

fn exclusive_link(subject: &str, probe: &Path) -> Finding {
    let (file, link) = (probe.join("file"), probe.join("link"));
    let outcome = fs::write(&file, b"").and_then(|()| fs::hard_link(&file, &link));
    let refused = fs::hard_link(&file, &link).is_err_and(|e| e.kind() == std::io::ErrorKind::AlreadyExists);
    match outcome {
        Ok(()) if refused => Finding::ok(subject, "exclusive creation works"),
        Ok(()) => Finding::error(
            subject,
            "the file system lets two writers create one file",
            "use a file system with hard links that refuses an existing name (ext4, xfs, btrfs, zfs, apfs)",
        ),
        Err(e) => Finding::error(
            subject,
            format!("the file system makes no hard links: {e}"),
            "use a file system that has them (ext4, xfs, btrfs, zfs, apfs, NFS)",
        ),
    }
}

fn exchange(subject: &str, probe: &Path) -> Finding {
    let (a, b) = (probe.join("a"), probe.join("b"));
    let made = fs::create_dir(&a).and_then(|()| fs::create_dir(&b)).is_ok();
    match made && renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).is_ok() {
        true => Finding::ok(subject, "directories can be exchanged at once"),
        false => Finding::warning(
            subject,
            "directories cannot be exchanged at once: at the end of a full refresh readers find none for a moment",
            "use a file system with RENAME_EXCHANGE (ext4, xfs, btrfs, tmpfs) if readers cannot bear that",
        ),
    }
}

fn free_space(subject: &str, probe: &Path) -> Option<Finding> {
    let space = statvfs(probe).ok()?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let message = format!("{:.1} GiB free", free as f64 / (1u64 << 30) as f64);
    Some(match free < LOW_SPACE {
        true => Finding::warning(subject, message, "free space before a large backfill"),
        false => Finding::ok(subject, message),
    })
}
