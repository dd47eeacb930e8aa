"""What the pages hold: the modules a user reads, by subject, and the Markdown files beside them."""

MODULES = {
    "Routers": "router learn policy assessment decision compiled_decisions router_pool large_logs forecast crossing",
    "Methods": "methods methods.*",
    "Logs and tables": "types splits preferences io io.logs io.errors io.ingest io.contract io.columns io.read_report "
    "io.join_scores io.stream io.write_log io.adapters io.adapters.* io.tables io.routerbench io.sprout io.prices",
    "Nuisances": "nuisances nuisances.*",
    "Counterfactual scores": "estimators counterfactual balancing tuning weighted",
    "Losses and metrics": "losses metrics interval routing_metrics frontier_metrics",
    "Training": "networks train train_stacked stacked sweep stream_sweep sharding budget linalg io.sweeps",
    "Values of policies": "off_policy policy_value honest_value inference resampling jackknife refitted "
    "limited_overlap power power_search power_world",
    "May a log be trusted?": "diagnostics explain verdict overlap calibration misfit pareto shift bounds "
    "bounding_scores query_bounds sensitivity",
    "Worlds with a known truth": "synthetic known_worlds logging_policies",
    "Encoders": "encoders encoders.load encoders.encode encoders.texts encoders.hashing encoders.bert encoders.llama "
    "encoders.pooling encoders.weights encoders.tensors encoders.spec encoders.batches encoders.cache "
    "encoders.errors",
    "Files": "io.checkpoint io.export io.results",
    "Commands and serving": "app app.cli app.diagnose app.fit app.evaluate app.calibrate app.plan app.pool app.route "
    "app.export app.service app.litellm_strategy",
}
"""Modules of jrouter by heading, `*` for all in a folder. Rooms that only the package uses are left out; a module that
defines a public name and is not here stands under a heading of its own, the last."""

PAGES = {
    "README.md": ("tour", "Tour"),
    "experiments/ASSUMPTIONS.md": ("assumptions", "What if an assumption fails?"),
    "experiments/README.md": ("experiments", "Experiments"),
    "benchmarks/README.md": ("benchmarks", "Benchmarks"),
    "jrouter/app/README.md": ("serving", "Serving"),
    "CONTRIBUTING.md": ("contributing", "Contributing"),
    "CHANGELOG.md": ("changelog", "Changes"),
}
"""Markdown files of the repository: the name of the page, and what links to it say."""
