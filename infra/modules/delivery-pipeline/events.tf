# A pipeline has no metric of its failure, but says so as an event.

module "failed" {
  source      = "../event-alert"
  name        = "${local.full_name}-failed"
  description = "An execution of ${local.full_name} failed: nothing new is in service."
  runbook     = "bad-model-rollback"
  topic_arn   = var.platform.alerts_topic_arn
  pattern = jsonencode({
    source      = ["aws.codepipeline"]
    detail-type = ["CodePipeline Pipeline Execution State Change"]
    detail      = { pipeline = [local.full_name], state = ["FAILED"] }
  })
}
