use super::*;

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|ip| ip.parse().unwrap()).collect()
}

#[test]
fn families_take_turns_with_ipv6_first_or_as_the_system_begins() {
    let all = ips(&["1.1.1.1", "2.2.2.2", "::1", "3.3.3.3"]);
    assert_eq!(interleave(all.clone(), true), ips(&["::1", "1.1.1.1", "2.2.2.2", "3.3.3.3"]));
    assert_eq!(interleave(all, false), ips(&["1.1.1.1", "::1", "2.2.2.2", "3.3.3.3"]));
}
