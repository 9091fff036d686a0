# One page for whoever is on call. Names are known before anything is made, so that a plan shows every query.

locals {
  alarm_arns = [
    for name in sort(concat(var.alarm_names, [for key, one in local.composites : "${var.platform.name}-slo-${key}"])) :
    "arn:aws:cloudwatch:${var.platform.region}:${var.platform.account_id}:alarm:${name}"
  ]
  here = ["Service", var.service_name]
  graphs = [
    { title = "Requests and failures a minute", stat = "Sum", rows = [["RequestCount"], ["ErrorCount"]] },
    { title = "Time to the first token, seconds", stat = "p50", rows = [["TimeToFirstToken"], ["TimeToFirstToken", "p95"], ["TimeToFirstToken", "p99"]] },
    { title = "Whole answers, seconds", stat = "p50", rows = [["ResponseTime"], ["ResponseTime", "p95"], ["ResponseTime", "p99"]] },
    { title = "Tokens a minute", stat = "Sum", rows = [["TokensGenerated"]] },
    { title = "Requests that wait, at one task", stat = "Average", rows = [["QueueDepth"], ["QueueDepth", "Maximum"]] },
  ]
  panels = concat(
    [for graph in local.graphs : {
      title = graph.title, stat = graph.stat,
      metrics = [
        for row in graph.rows :
        concat(["NexusLLM/API", row[0]], local.here, [{ stat = try(row[1], graph.stat), label = "${row[0]} ${try(row[1], graph.stat)}" }])
      ]
    }],
    [{
      title = "Tasks that run", stat = "Maximum",
      metrics = [concat(
        ["ECS/ContainerInsights", "RunningTaskCount", "ClusterName", var.cluster_name, "ServiceName", var.service_name],
        [{ label = "tasks", stat = "Maximum" }],
      )]
    }],
  )
}

resource "aws_cloudwatch_dashboard" "this" {
  dashboard_name = "${var.platform.name}-service"
  dashboard_body = jsonencode({
    widgets = concat(
      [{ type = "alarm", x = 0, y = 0, width = 24, height = 3, properties = { title = "Alarms", alarms = local.alarm_arns } }],
      [for index, panel in local.panels : {
        type       = "metric", x = index % 3 * 8, y = 3 + floor(index / 3) * 6, width = 8, height = 6,
        properties = { title = panel.title, region = var.platform.region, period = 60, stat = panel.stat, metrics = panel.metrics }
      }],
    )
  })
}
