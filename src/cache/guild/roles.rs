//! The guild's side of taking deleted roles from members: beginning a [removal](RoleRemoval), continuing it with each
//! event, and storing the members that it changes.

use super::{Context, Guild};
use crate::cache::{
    codec::Decoder,
    kind::Kind,
    role_removal::{DeletedRoles, RoleRemoval},
    store::SharedRecords,
};

impl Guild {
    /// Takes a role that was deleted from the members. Looks at some members now and at the others with later events.
    pub fn remove_role_from_members(&mut self, context: &mut Context<'_>, role: u64) {
        match &mut self.removal {
            Some(removal) => removal.add_waiting(role),
            None => {
                self.removal = self.new_removal(vec![role]);
                self.continue_role_removal(context);
            }
        }
    }

    fn new_removal(&self, roles: Vec<u64>) -> Option<Box<RoleRemoval>> {
        RoleRemoval::new(roles, SharedRecords::of(&self.array(Kind::Members).store)).map(Box::new)
    }

    /// The roles that have to be left out of the texts of the members.
    pub fn deleted_roles(&self) -> DeletedRoles {
        self.removal.as_ref().map_or_else(DeletedRoles::default, |removal| removal.all_roles(&self.ids.borrow()))
    }

    /// Does one step of the removal that is under way, if there is one.
    pub fn continue_role_removal(&mut self, context: &mut Context<'_>) {
        let Some(mut removal) = self.removal.take() else { return };
        let (roles, users, finished) = {
            let ids = self.ids.borrow();
            let roles = removal.current_roles(&ids);
            let (users, finished) = removal.step(&roles, &Decoder { tables: &context.tables, ids: &ids });
            (roles, users, finished)
        };
        for user in users {
            // The member was encoded from well-formed text, so editing it does not fail.
            let _ = self.edit(context, Kind::Members, user, |member| roles.remove_from(member));
        }
        self.removal = if finished { self.new_removal(removal.into_waiting()) } else { Some(removal) };
    }
}
