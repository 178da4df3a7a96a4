//! How a run and a step ended, and why a planned run did not start (docs/record.md).

words! {
    /// How a run ended.
    RunOutcome {
        /// The message list was there.
        Passed = "passed",
        /// Server, network or credentials kept the user from the message list.
        Failed = "failed",
        /// The agent could not judge: overloaded, suspended, cancelled, mis-configured. Does not measure the target.
        Void = "void",
    }

    /// How a step ended.
    #[derive(Default)]
    StepOutcome {
        /// It did what it is for.
        #[default]
        Passed = "passed",
        /// It did not, or could not even start.
        Failed = "failed",
        /// It was not needed, or no command could be sent when its turn came. It has no span.
        Skipped = "skipped",
    }

    /// Why a planned run did not start.
    SkipReason {
        /// The account's last run was still in flight.
        Running = "running",
        /// The limit on runs in flight or on logins left no place for it in time.
        Limit = "limit",
        /// It is in a maintenance window.
        Window = "window",
        /// The process did not get to run in time.
        Overload = "overload",
    }
}
