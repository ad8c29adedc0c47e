#![allow(clippy::unwrap_used, clippy::expect_used)]
use super::*;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o777
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_new_directory_is_private_and_so_are_the_roles() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("a/b");
    let home = Home::create(&dir).unwrap();
    assert_eq!(mode(home.dir()), 0o700);
    assert_eq!(mode(&home.vendor_dir().unwrap()), 0o700);
    assert_eq!(mode(&home.mirror_dir().unwrap()), 0o700);
    assert_eq!(mode(&home.user_dir().unwrap()), 0o700);
}

#[test]
fn what_is_no_directory_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    assert!(matches!(Home::open(&temp.path().join("none")), Err(HomeError::Missing(_))));
    let file = temp.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    assert!(matches!(Home::open(&file), Err(HomeError::NotADirectory(_))));
    assert!(matches!(Home::create(&file), Err(HomeError::NotADirectory(_))));
}

#[test]
fn the_second_lock_is_refused_and_names_the_first() {
    let temp = tempfile::tempdir().unwrap();
    let home = Home::create(temp.path()).unwrap();
    let first = home.lock().unwrap();
    let error = home.lock().unwrap_err();
    assert!(matches!(error, HomeError::Locked { pid: Some(pid), .. } if pid == std::process::id()));
    assert!(error.to_string().contains("stop it first"));
    drop(first);
    home.lock().unwrap();
}

#[test]
fn writing_replaces_whole_files_and_leaves_nothing_beside() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("file");
    write_atomic(&path, b"one", MODE_PUBLIC).unwrap();
    write_atomic(&path, b"two", MODE_SECRET).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"two");
    assert_eq!(mode(&path), 0o600);
    assert_eq!(names(temp.path()), ["file"]);
}

#[test]
fn creating_never_overwrites() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("key");
    create_atomic(&path, b"one", MODE_SECRET).unwrap();
    assert!(matches!(create_atomic(&path, b"two", MODE_SECRET), Err(HomeError::Exists(_))));
    assert_eq!(std::fs::read(&path).unwrap(), b"one");
    assert_eq!(mode(&path), 0o600);
    assert_eq!(names(temp.path()), ["key"]);
}

#[test]
fn a_secret_that_others_may_read_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("key");
    assert!(read_secret(&path).unwrap().is_none());
    create_atomic(&path, b"secret", MODE_SECRET).unwrap();
    assert_eq!(read_secret(&path).unwrap().unwrap().as_str(), "secret");
    for open in [0o640, 0o604, 0o660] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(open)).unwrap();
        let error = read_secret(&path).unwrap_err();
        assert!(matches!(error, HomeError::SecretReadable { .. }));
        assert!(error.to_string().contains(&format!("chmod 600 {}", path.display())), "{error}");
    }
}

#[test]
fn sizes_are_bounded() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("file");
    for (bytes, fits) in [(0, true), (1, true), (4096, true), (4097, false)] {
        write_atomic(&path, &vec![b'x'; bytes], MODE_SECRET).unwrap();
        assert_eq!(read_secret(&path).is_ok(), fits, "{bytes}");
    }
    for (bytes, fits) in [(65_536, true), (65_537, false)] {
        write_atomic(&path, &vec![b'x'; bytes], MODE_SECRET).unwrap();
        assert_eq!(read_text(&path).is_ok(), fits, "{bytes}");
    }
}

#[test]
fn ready_json_reads_back() {
    let temp = tempfile::tempdir().unwrap();
    let home = Home::create(temp.path()).unwrap();
    assert_eq!(home.read_ready().unwrap(), None);
    let ready = Ready {
        pid: 7,
        node: "00".repeat(32),
        peer_id: "12D3Koo".to_owned(),
        addresses: vec!["/ip4/127.0.0.1/udp/1/quic-v1/p2p/12D3Koo".to_owned()],
        roles: vec!["vendor".to_owned()],
    };
    home.write_ready(&ready).unwrap();
    assert_eq!(home.read_ready().unwrap(), Some(ready));
    home.remove_ready().unwrap();
    home.remove_ready().unwrap();
    assert_eq!(home.read_ready().unwrap(), None);
}

/// Golden text; other programs read it. It may get further keys, and keeps these.
#[test]
fn ready_json_keeps_its_text() {
    let temp = tempfile::tempdir().unwrap();
    let home = Home::create(temp.path()).unwrap();
    let ready = Ready {
        pid: 7,
        node: "0a".repeat(2),
        peer_id: "12D3Koo".to_owned(),
        addresses: vec!["/ip4/127.0.0.1/udp/1/quic-v1/p2p/12D3Koo".to_owned()],
        roles: vec!["vendor".to_owned(), "mirror".to_owned()],
    };
    home.write_ready(&ready).unwrap();
    let golden = "{\"pid\":7,\"node\":\"0a0a\",\"peer_id\":\"12D3Koo\",\"addresses\":[\"/ip4/127.0.0.1/udp/1/quic-v1/p2p/12D3Koo\"],\
                  \"roles\":[\"vendor\",\"mirror\"]}\n";
    assert_eq!(std::fs::read_to_string(home.ready()).unwrap(), golden);
    let newer = golden.replace("{\"pid\"", "{\"new\":1,\"pid\"");
    for text in [golden, &newer] {
        std::fs::write(home.ready(), text).unwrap();
        assert_eq!(home.read_ready().unwrap().as_ref(), Some(&ready));
    }
}
