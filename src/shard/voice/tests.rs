mod model;

use super::*;

const GUILD: u64 = 1;
const SECOND: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(60);

fn table() -> Table {
    Table::new(GRACE)
}

fn ask(channel: impl Into<Option<u64>>) -> VoiceCommand {
    VoiceCommand { guild: GUILD, channel: channel.into() }
}

fn state(channel: impl Into<Option<u64>>) -> OwnState {
    OwnState { guild: GUILD, channel: channel.into(), ours: true, self_mute: false, self_deaf: true }
}

/// Session 1 is connected to channel 10, with a voice server at position 5.
fn connected() -> Table {
    let mut table = table();
    assert_eq!(table.send(SECOND, SessionKey(1), ask(10), |_| true), Verdict::Send);
    assert_eq!(table.own_state(SECOND, state(10), b"s"), Audience::All);
    assert_eq!(table.server_update(GUILD, 5, b"t"), Audience::Only(SessionKey(1)));
    assert!(table.is_fresh(GUILD, 5, SessionKey(1)));
    assert_eq!((table.connections(), table.takeovers(), table.refused()), (1, 0, 0));
    table
}

#[test]
fn a_voice_server_is_for_who_has_asked() {
    let mut table = connected();
    // Discord moves the voice server: first there is none, then another one.
    let [away, there] = [&br#"{"token":"x","endpoint":null}"#[..], br#"{"token":"y","endpoint":"z"}"#];
    assert_eq!(table.server_update(GUILD, 6, away), Audience::Only(SessionKey(1)));
    assert!(
        table.is_fresh(GUILD, 6, SessionKey(1))
            && !table.is_fresh(GUILD, 5, SessionKey(1))
            && !table.is_fresh(GUILD, 6, SessionKey(2))
    );
    for position in [7, 8] {
        assert_eq!(table.server_update(GUILD, position, there), Audience::Only(SessionKey(1)));
        assert!(table.is_fresh(GUILD, 6, SessionKey(1)) && table.is_fresh(GUILD, position, SessionKey(1)));
        assert_eq!(table.is_fresh(GUILD, 7, SessionKey(1)), position == 7);
    }
    // A moderator moves the bot.
    assert_eq!(table.own_state(SECOND, state(11), b"s"), Audience::All);
    assert_eq!(table.server_update(GUILD, 9, b"t"), Audience::Only(SessionKey(1)));
    // The moderator disconnects the bot.
    assert_eq!(table.own_state(SECOND, state(None), b"s"), Audience::All);
    assert!(table.is_empty() && !table.is_fresh(GUILD, 9, SessionKey(1)));
    assert_eq!(table.server_update(GUILD, 10, b"t"), Audience::Nobody);
    assert_eq!(table.server_update(2, 10, b"t"), Audience::Nobody);
}

#[test]
fn the_same_channel_is_left_first_by_who_takes_over() {
    let mut table = connected();
    assert_eq!(table.send(SECOND, SessionKey(1), ask(10), |_| true), Verdict::Send, "the owner changes its mute state");
    assert_eq!(table.own_state(SECOND, state(10), b"s"), Audience::All);
    assert_eq!(table.send(SECOND, SessionKey(2), ask(10), |_| true), Verdict::LeaveFirst);
    assert_eq!((table.owner(GUILD), table.takeovers()), (Some(SessionKey(2)), 1));
    assert!(!table.is_fresh(GUILD, 5, SessionKey(1)) && !table.is_fresh(GUILD, 5, SessionKey(2)));
    // These events were on their way when the leave was sent.
    assert_eq!(table.own_state(SECOND, state(10), b"s"), Audience::All);
    assert_eq!(table.server_update(GUILD, 6, b"t"), Audience::Nobody);
    // Only the session that has lost the connection gets the voice state of the leave.
    assert_eq!(table.own_state(SECOND, state(None), b"s"), Audience::Only(SessionKey(1)));
    assert_eq!(table.own_state(SECOND, state(10), b"s"), Audience::All);
    assert_eq!(table.server_update(GUILD, 9, b"t"), Audience::Only(SessionKey(2)));
    assert_eq!(table.tick(SECOND * 100, true), []);
    assert_eq!(table.owner(GUILD), Some(SessionKey(2)));
}

#[test]
fn a_join_that_fails_after_the_leave_is_told_to_all() {
    let mut table = connected();
    assert_eq!(table.send(SECOND, SessionKey(2), ask(10), |_| true), Verdict::LeaveFirst);
    assert_eq!(table.own_state(SECOND, state(None), b"gone"), Audience::Only(SessionKey(1)));
    let at = table.deadline().unwrap();
    assert_eq!(table.tick(at - Duration::from_millis(1), true), []);
    assert_eq!(table.tick(at, false), [], "Discord can not answer");
    let at = table.deadline().unwrap();
    assert_eq!(table.tick(at, true), [DueAction::TellState(b"gone".to_vec())]);
    assert!(table.is_empty());
}

#[test]
fn who_asks_in_vain_takes_nothing_away() {
    let mut table = connected();
    // First the client asks for another channel, which is full; then for the same channel, and Discord does not answer.
    for (channel, verdict) in [(11, Verdict::Send), (10, Verdict::LeaveFirst)] {
        assert_eq!(table.send(SECOND, SessionKey(2), ask(channel), |_| true), verdict);
        assert_eq!(table.owner(GUILD), Some(SessionKey(2)));
        assert_eq!(table.tick(table.deadline().unwrap(), true), []);
        assert_eq!((table.owner(GUILD), table.connections()), (Some(SessionKey(1)), 1));
    }
    // If Discord sends a voice server without a voice state before it, the voice server was the answer.
    assert_eq!(table.send(SECOND, SessionKey(2), ask(10), |_| true), Verdict::LeaveFirst);
    assert_eq!(table.server_update(GUILD, 6, b"server"), Audience::Nobody);
    assert_eq!(table.tick(table.deadline().unwrap(), true), [DueAction::TellServer(GUILD, b"server".to_vec())]);
    assert_eq!(table.server_update(GUILD, 7, b"server"), Audience::Only(SessionKey(2)));
    // The table forgets a guild if Discord does not answer.
    assert_eq!(table.send(SECOND, SessionKey(2), VoiceCommand { guild: 9, channel: Some(1) }, |_| true), Verdict::Send);
    assert_eq!(table.tick(SECOND + ANSWER_LIMIT, true), []);
    assert!(!table.contains(9));
}

#[test]
fn an_op_4_that_discord_ignores_does_not_hide_the_answers_to_the_next_ones() {
    let mut table = connected();
    // Discord does not answer, for example because the guild is down.
    assert_eq!(table.send(SECOND, SessionKey(1), ask(11), |_| true), Verdict::Send);
    assert_eq!(table.send(SECOND * 2, SessionKey(2), ask(12), |_| true), Verdict::Send);
    assert_eq!(table.own_state(SECOND * 2, state(12), b"s"), Audience::All);
    assert!(!table.awaits_answer(GUILD));
    assert_eq!(table.server_update(GUILD, 6, b"t"), Audience::Only(SessionKey(2)));
    // A moderator moves the bot.
    assert_eq!(table.own_state(SECOND * 3, state(13), b"s"), Audience::All);
    assert_eq!(table.server_update(GUILD, 7, b"t"), Audience::Only(SessionKey(2)));
    assert_eq!((table.deadline(), table.owner(GUILD)), (None, Some(SessionKey(2))));
}

#[test]
fn who_came_into_the_wanted_channel_keeps_the_connection() {
    for (again, moved, ends) in
        [(None, false, false), (Some(14), false, false), (None, true, false), (None, false, true)]
    {
        let mut table = connected();
        for (client, channel) in [(1, 12), (1, 11), (2, 12)] {
            assert_eq!(table.send(SECOND, SessionKey(client), ask(channel), |_| true), Verdict::Send);
        }
        // Discord has ignored the first two op 4s. The table can not tell this answer from one to the first.
        assert_eq!(table.own_state(SECOND * 2, state(12), b"s"), Audience::All);
        assert_eq!(table.server_update(GUILD, 6, b"t"), Audience::Nobody);
        assert!(table.awaits_answer(GUILD));
        if let Some(channel) = again {
            assert_eq!(table.send(SECOND * 3, SessionKey(2), ask(channel), |_| true), Verdict::Send);
        }
        if moved {
            assert_eq!(table.own_state(SECOND * 3, state(13), b"s"), Audience::All);
            assert_eq!(table.server_update(GUILD, 7, b"moved"), Audience::Nobody);
        }
        if ends {
            table.session_ended(SECOND * 3, SessionKey(2), SECOND * 3);
            assert_eq!(table.owner(GUILD), None);
            continue;
        }
        let due = table.tick(table.deadline().unwrap(), true);
        let held = if moved { b"moved" } else { &b"t"[..] };
        assert_eq!(due, [DueAction::TellServer(GUILD, held.to_vec())]);
        assert_eq!((table.owner(GUILD), table.awaits_answer(GUILD)), (Some(SessionKey(2)), false), "{again:?}");
    }
}

#[test]
fn who_is_answered_while_another_asks_in_vain_gets_the_server() {
    let mut table = connected();
    assert_eq!(table.send(SECOND, SessionKey(1), ask(11), |_| true), Verdict::Send);
    assert_eq!(table.send(SECOND, SessionKey(2), ask(12), |_| true), Verdict::Send);
    assert_eq!(table.own_state(SECOND * 2, state(11), b"s"), Audience::All);
    assert_eq!(table.server_update(GUILD, 6, b"t"), Audience::Nobody, "client 2 has asked last");
    let due = table.tick(table.deadline().unwrap(), true);
    assert_eq!(due, [DueAction::TellServer(GUILD, b"t".to_vec())]);
    assert_eq!(table.server_update(GUILD, 7, b"t"), Audience::Only(SessionKey(1)));
}

#[test]
fn who_has_lost_the_connection_can_not_leave_for_the_other() {
    let mut table = connected();
    let attached = |key: SessionKey| key == SessionKey(1);
    assert_eq!(table.send(SECOND, SessionKey(2), ask(None), attached), Verdict::Refuse);
    assert_eq!(table.refused(), 1);
    assert_eq!(table.send(SECOND, SessionKey(1), ask(None), attached), Verdict::Send);
    assert_eq!(table.send(SECOND, SessionKey(2), ask(None), |_| false), Verdict::Send, "the owner is not there");
    assert_eq!(table.send(SECOND, SessionKey(2), VoiceCommand { guild: 2, channel: None }, attached), Verdict::Send);
}

#[test]
fn a_channel_is_left_when_its_owner_is_gone_for_long_enough() {
    // The owner closed with 1000 just now, or it lost its connection before and its time to resume is over.
    for (since, at) in [(SECOND * 10, SECOND * 70), (SECOND, SECOND * 61), (Time::ZERO, SECOND * 60)] {
        let mut table = connected();
        table.session_ended(SECOND * 10, SessionKey(1), since);
        assert_eq!((table.owner(GUILD), table.deadline()), (None, Some(at)));
        assert!(!table.is_fresh(GUILD, 5, SessionKey(1)));
        assert_eq!(table.server_update(GUILD, 6, b"t"), Audience::Nobody);
        assert_eq!(table.tick(at, true), [DueAction::Leave(GUILD)]);
        // The leave is repeated until Discord has answered it.
        assert_eq!(table.tick(at, true), []);
        assert_eq!(table.tick(at + LEAVE_RETRY, true), [DueAction::Leave(GUILD)]);
        assert_eq!(table.own_state(SECOND * 99, state(None), b"s"), Audience::All);
        assert!(table.is_empty() && table.deadline().is_none());
    }
    // The bot never leaves before the session ends, even if the grace is over.
    let mut table = connected();
    table.session_ended(SECOND * 200, SessionKey(1), SECOND);
    assert_eq!(table.deadline(), Some(SECOND * 200));
    // The next process of the bot asks for the channel in time.
    assert_eq!(table.send(SECOND * 200, SessionKey(2), ask(10), |_| true), Verdict::LeaveFirst);
    assert_eq!(table.own_state(SECOND * 200, state(None), b"s"), Audience::Nobody, "nobody has it who could be told");
    assert_eq!(table.own_state(SECOND * 200, state(10), b"s"), Audience::All);
    assert_eq!(table.deadline(), None);
}

#[test]
fn a_new_session_of_discord_voids_everything() {
    for rejoin in [false, true] {
        let mut table = connected();
        table.send(SECOND, SessionKey(2), VoiceCommand { guild: 2, channel: Some(20) }, |_| true);
        table.session_ended(SECOND, SessionKey(3), SECOND);
        assert_eq!(table.session_lost(SECOND * 2, rejoin), [(SessionKey(1), 1), (SessionKey(2), 2)]);
        assert_eq!((table.connections(), table.contains(GUILD)), (0, rejoin));
        assert!(!table.is_fresh(GUILD, 5, SessionKey(1)));
        if rejoin {
            assert_eq!(table.guild_available(GUILD, None), Some((10, false, true)));
            assert_eq!(table.own_state(SECOND * 3, state(10), b"s"), Audience::All);
            assert_eq!(table.server_update(GUILD, 9, b"t"), Audience::Nobody);
            assert_eq!(table.send(SECOND * 4, SessionKey(7), ask(10), |_| true), Verdict::LeaveFirst);
            // In guild 2 a client asks before the guild comes. In the last table no client asks.
            assert_eq!(
                table.send(SECOND * 4, SessionKey(8), VoiceCommand { guild: 2, channel: Some(20) }, |_| true),
                Verdict::Send
            );
            assert_eq!(table.guild_available(2, None), None);
            let mut table = connected();
            table.session_lost(SECOND, true);
            assert_eq!(table.tick(SECOND + GRACE, true), []);
            assert!(table.is_empty());
        }
    }
}

#[test]
fn guilds_that_come_and_go() {
    let mut table = connected();
    assert_eq!(table.guild_available(GUILD, Some(state(10))), None);
    assert!(table.is_fresh(GUILD, 5, SessionKey(1)));
    let foreign = OwnState { ours: false, ..state(10) };
    assert_eq!(table.guild_available(GUILD, Some(foreign)), None);
    assert!(table.is_empty(), "another session of the bot is in the channel");
    let mut table = connected();
    assert_eq!(table.own_state(SECOND, foreign, b"s"), Audience::All);
    assert!(table.is_empty());
    let mut table = connected();
    table.guild_left(GUILD);
    assert!(table.is_empty());
    // No client has asked for this voice state, for example because the table was full.
    assert_eq!(table.own_state(SECOND, state(10), b"s"), Audience::All);
    assert_eq!(table.tick(SECOND + GRACE, true), [DueAction::Leave(GUILD)]);
}

#[test]
fn the_table_is_bounded() {
    let mut table = table();
    for guild in 0..MAX_CONNECTIONS as u64 {
        assert_eq!(
            table.send(SECOND, SessionKey(1), VoiceCommand { guild, channel: Some(1) }, |_| true),
            Verdict::Send
        );
    }
    let one_more = VoiceCommand { guild: u64::MAX, channel: Some(1) };
    assert_eq!(table.send(SECOND, SessionKey(1), one_more, |_| true), Verdict::Refuse);
    assert_eq!(table.send(SECOND, SessionKey(1), ask(2), |_| true), Verdict::Send, "one that is in it");
    assert_eq!(table.own_state(SECOND, OwnState { guild: u64::MAX, ..state(1) }, b"s"), Audience::All);
    assert_eq!((table.refused(), table.guilds.len()), (1, MAX_CONNECTIONS));
    let saved: Vec<Saved> = table.save().collect();
    let mut other = connected();
    let taken =
        saved.into_iter().filter(|saved| saved.guild != GUILD).all(|saved| other.restore(SECOND, saved, |_| true));
    assert!(taken);
    let mut over = table.save();
    assert!(!other.restore(SECOND, over.next().unwrap(), |_| true));
    drop(over);
    // Discord has answered none of the op 4s.
    table.tick(SECOND + ANSWER_LIMIT, true);
    assert!(table.is_empty());
}

#[test]
fn another_process_goes_on() {
    let mut table = connected();
    assert_eq!(table.send(SECOND, SessionKey(2), ask(10), |_| true), Verdict::LeaveFirst);
    assert_eq!(table.own_state(SECOND, state(None), b"gone"), Audience::Only(SessionKey(1)));
    let text = serde_json::to_vec(&table.save().collect::<Vec<_>>()).unwrap();
    let restored = |there: &dyn Fn(SessionKey) -> bool| {
        let mut table = Table::new(GRACE);
        for saved in serde_json::from_slice::<Vec<Saved>>(&text).unwrap() {
            assert!(table.restore(SECOND * 5, saved, there));
        }
        table
    };
    let mut both = restored(&|_| true);
    assert_eq!(both.own_state(SECOND * 6, state(10), b"s"), Audience::All);
    assert_eq!(both.server_update(GUILD, 9, b"t"), Audience::Only(SessionKey(2)));
    let mut none = restored(&|_| false);
    assert_eq!(none.owner(GUILD), None);
    assert_eq!(none.tick(SECOND * 5 + ANSWER_LIMIT, true), [DueAction::TellState(b"gone".to_vec())]);
    assert!(none.is_empty());
}

/// The session that asked last was not saved.
#[test]
fn in_another_process_a_connection_goes_back_to_a_session_that_is_there() {
    let mut table = connected();
    assert_eq!(table.send(SECOND, SessionKey(2), ask(20), |_| true), Verdict::Send);
    let mut ended = table.clone();
    ended.session_ended(SECOND, SessionKey(2), SECOND);
    let mut restored = Table::new(SECOND);
    assert!(table.save().all(|saved| restored.restore(SECOND, saved, |session| session == SessionKey(1))));
    for table in [&mut ended, &mut restored] {
        assert_eq!(table.owner(GUILD), Some(SessionKey(1)));
        assert!(table.tick(SECOND * 5, true).is_empty(), "the bot stays in the channel of the first session");
    }
}

#[test]
fn commands_that_were_lost_are_sent_again_with_their_leave() {
    let mut table = connected();
    assert!(!table.send_again(SECOND, SessionKey(1), ask(10)));
    let elsewhere = VoiceCommand { guild: 7, ..ask(10) };
    assert!(!table.send_again(SECOND, SessionKey(1), elsewhere), "the table does not know the guild");
    table.send(SECOND, SessionKey(2), ask(10), |_| true);
    table.send(SECOND, SessionKey(3), ask(10), |_| true);
    assert!(table.send_again(SECOND * 50, SessionKey(3), ask(10)));
    // Only one leave is answered, because the others are lost.
    assert_eq!(table.own_state(SECOND * 50, state(None), b"s"), Audience::Only(SessionKey(1)));
    assert!(!table.send_again(SECOND * 50, SessionKey(3), ask(10)));
    assert_eq!(table.own_state(SECOND * 50, state(10), b"s"), Audience::All);
    assert_eq!(table.server_update(GUILD, 9, b"t"), Audience::Only(SessionKey(3)));
}

/// The connection hangs for so long that the table gives the op 4s up, and breaks. Of the two op 4s the newest is sent
/// again. Discord would send no voice server for the channel that the bot is in.
#[test]
fn an_op_4_that_was_given_up_and_is_sent_again_is_decided_anew() {
    let mut table = connected();
    assert_eq!(table.send(SECOND, SessionKey(2), ask(11), |_| true), Verdict::Send);
    assert_eq!(table.send(SECOND * 3, SessionKey(2), ask(10), |_| true), Verdict::Send);
    let later = SECOND * 3 + ANSWER_LIMIT;
    assert!(table.tick(later, true).is_empty());
    assert_eq!(table.owner(GUILD), Some(SessionKey(1)), "nothing has changed at Discord");
    table.expect_answers_only_for(&[GUILD]);
    assert!(table.send_again(later, SessionKey(2), ask(10)));
    assert_eq!(table.own_state(later, state(None), b"s"), Audience::Only(SessionKey(1)));
    assert_eq!(table.own_state(later, state(10), b"s"), Audience::All);
    assert_eq!(table.server_update(GUILD, 9, b"t"), Audience::Only(SessionKey(2)));
}

#[test]
fn who_asks_for_a_channel_that_another_was_in_meanwhile_takes_nothing_away() {
    for ends in [false, true] {
        let mut table = connected();
        for (client, channel) in [(1, 12), (1, 11), (2, 12)] {
            assert_eq!(table.send(SECOND, SessionKey(client), ask(channel), |_| true), Verdict::Send);
        }
        // Discord answers the op 4s of client 1 and ignores that of client 2.
        for (channel, text) in [(12, &b"first"[..]), (11, b"second")] {
            assert_eq!(table.own_state(SECOND, state(channel), b"s"), Audience::All);
            assert_eq!(table.server_update(GUILD, 6, text), Audience::Nobody);
        }
        if ends {
            table.session_ended(SECOND, SessionKey(2), SECOND);
            assert_eq!(table.owner(GUILD), Some(SessionKey(1)));
        }
        let due = table.tick(table.deadline().unwrap(), true);
        assert_eq!(due, [DueAction::TellServer(GUILD, b"second".to_vec())]);
        assert_eq!(table.server_update(GUILD, 7, b"second"), Audience::Only(SessionKey(1)));
    }
}

#[test]
fn a_failed_op_4_gives_the_connection_to_the_last_one_that_was_answered() {
    let mut table = connected();
    assert_eq!(table.send(SECOND, SessionKey(2), ask(11), |_| true), Verdict::Send);
    assert_eq!(table.send(SECOND, SessionKey(3), ask(12), |_| true), Verdict::Send);
    table.session_ended(SECOND, SessionKey(3), SECOND);
    assert_eq!(table.owner(GUILD), Some(SessionKey(2)), "Discord may still answer it");
    // Client 2 came into its channel, and client 3 asks in vain.
    let mut table = connected();
    for (client, channel) in [(1, 12), (1, 11), (2, 12)] {
        assert_eq!(table.send(SECOND, SessionKey(client), ask(channel), |_| true), Verdict::Send);
    }
    assert_eq!(table.own_state(SECOND, state(12), b"s"), Audience::All);
    assert_eq!(table.send(SECOND, SessionKey(3), ask(14), |_| true), Verdict::Send);
    table.tick(table.deadline().unwrap(), true);
    assert_eq!(table.owner(GUILD), Some(SessionKey(2)));
}

#[test]
fn the_client_that_asks_does_not_see_a_leave_before_an_op_4_that_is_sent_again() {
    for client in [SessionKey(1), SessionKey(2)] {
        let mut table = connected();
        for channel in [11, 10] {
            assert_eq!(table.send(SECOND, client, ask(channel), |_| true), Verdict::Send);
        }
        table.expect_answers_only_for(&[GUILD]);
        assert!(table.send_again(SECOND, client, ask(10)));
        let told = if client == SessionKey(1) { Audience::Nobody } else { Audience::Only(SessionKey(1)) };
        assert_eq!(table.own_state(SECOND, state(None), b"gone"), told);
        assert_eq!(table.own_state(SECOND, state(10), b"s"), Audience::All);
        assert_eq!(table.server_update(GUILD, 9, b"t"), Audience::Only(client));
    }
}

#[test]
fn unanswered_changes_are_bounded() {
    let mut table = connected();
    for number in 0..1_000u32 {
        table.send(SECOND, SessionKey(number % 2), ask(u64::from(number % 3)), |_| true);
    }
    let connection = &table.guilds[&GUILD];
    let join = connection.pending_join.as_ref().unwrap();
    assert_eq!((connection.unanswered.len(), join.changes_before), (128, 127), "the last one is the pending join's");
    assert_eq!(table.own_state(SECOND, state(0), b"s"), Audience::All);
}

/// The session of the owner before has ended.
#[test]
fn who_asks_in_vain_for_a_channel_without_owner_does_not_own_it() {
    let mut table = connected();
    table.session_ended(SECOND, SessionKey(1), SECOND);
    assert_eq!(table.send(SECOND, SessionKey(2), ask(10), |_| true), Verdict::LeaveFirst);
    let later = SECOND + REJOIN_LIMIT;
    assert!(table.tick(later, true).is_empty());
    assert_eq!((table.owner(GUILD), table.deadline()), (None, Some(later + GRACE)));
    assert!(table.send_again(later, SessionKey(2), ask(10)), "the bot has to leave, so that there is a voice server");
    assert_eq!(table.owner(GUILD), Some(SessionKey(2)));
}
