//! Test of a client's snapshot while the events go on, on random histories.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

proptest! {
    /// Events go on while a client reads its snapshot, at any pace. In the end the client has the state of the guilds,
    /// and no message of a guild is missing, doubled or out of order.
    #[test]
    fn a_snapshot_and_the_events_are_one_story(
        steps in prop::collection::vec((0u8..12, 1u64..5, 0u64..6), 1..120), resume_after in 0usize..120,
    ) {
        let guilds = [1, 2, 3, 4];
        let mut world = World::ready(&guilds);
        let mut truth: BTreeMap<u64, Vec<u64>> = guilds.iter().map(|&guild| (guild, vec![guild * 1000])).collect();
        let mut client = Client::identify(&mut world, 1, Intents::ALL);
        let mut number = 0;
        // Messages since the client's READY, which comes with the first call, and whether the bot has left a guild
        // since.
        let (mut begun, mut sent, mut left) = (false, Vec::new(), false);
        let mut connection = 1;
        for (index, (what, guild, user)) in steps.into_iter().enumerate() {
            let user = guild * 1000 + 1 + user;
            let known = truth.contains_key(&guild);
            match what {
                0..=2 if known && !truth[&guild].contains(&user) => {
                    world.join(guild, user);
                    truth.get_mut(&guild).unwrap().push(user);
                }
                3 | 4 if known && truth[&guild].contains(&user) => {
                    world.leave(guild, user);
                    truth.get_mut(&guild).unwrap().retain(|member| *member != user);
                }
                5 if known => {
                    world.dispatch("GUILD_DELETE", &json!({"id": guild.to_string()}));
                    truth.remove(&guild);
                    left = true;
                }
                6 if !known => {
                    world.guild_create(guild, 2);
                    truth.insert(guild, vec![guild * 1000, guild * 1000 + 1]);
                }
                7 | 8 if known => {
                    number += 1;
                    world.message(guild, number);
                    sent.push(number);
                }
                10 => client.read(),
                9 | 11 => {
                    if !std::mem::replace(&mut begun, true) {
                        (sent, left) = (Vec::new(), false);
                    }
                    client.produce(&mut world);
                    if what == 11 { client.read(); }
                }
                _ => {}
            }
            if index == resume_after && !client.session.is_empty() {
                world.shard.detach(world.now, client.key, ConnectionId(connection), false);
                connection += 1;
                let sequence = client.sequence;
                if !client.resume(&mut world, connection, sequence) {
                    // The session was in the middle of its snapshot. The client starts over, and gets no earlier
                    // events.
                    client = Client::identify(&mut world, connection, Intents::ALL);
                    begun = false;
                }
            }
        }
        client.catch_up(&mut world);
        prop_assert!(client.end.is_none());
        prop_assert_eq!(client.guilds.len(), truth.len());
        for (guild, members) in &mut truth {
            let (seen, count) = client.guilds.get_mut(guild).expect("a guild that is there");
            seen.sort_unstable();
            members.sort_unstable();
            prop_assert_eq!(*count, members.len() as u64);
            prop_assert_eq!(&*seen, &*members);
        }
        // The client gets no message of a guild that the bot left before the client was sent the guild. It gets all
        // others.
        prop_assert!(client.messages.is_sorted_by(|a, b| a < b));
        if begun && !left {
            prop_assert_eq!(client.messages, sent);
        } else if begun {
            prop_assert!(client.messages.iter().all(|message| sent.contains(message)));
        }
    }
}
