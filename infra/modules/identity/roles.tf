# One role a service: what a Glue job may do says nothing about what a training job may do.

locals {
  services = {
    glue            = "glue.amazonaws.com"
    emr             = "emr-serverless.amazonaws.com"
    sagemaker       = "sagemaker.amazonaws.com"
    batch-job       = "ecs-tasks.amazonaws.com"
    batch-execution = "ecs-tasks.amazonaws.com"
    batch-instance  = "ec2.amazonaws.com"
  }

  # JSON texts rather than objects: statements with and without conditions have no common type.
  permissions = {
    glue = jsonencode([
      local.read_data, local.write_data, local.read_models, local.list_buckets, local.use_key, local.catalog,
      local.write_logs["/aws-glue"], local.encrypt_glue_logs, local.write_metrics["Glue"], local.see_network,
      local.join_network, local.tag_interfaces, local.glue_connection,
    ])
    emr = jsonencode([
      local.read_data, local.write_data, local.read_models, local.list_buckets, local.use_key, local.catalog,
      local.write_logs["/aws/emr-serverless"], local.find_log_groups,
    ])
    sagemaker = jsonencode([
      local.read_data, local.write_data, local.read_models, local.write_models, local.list_buckets, local.use_key,
      local.encrypt_disks, local.pull_images, local.log_in_to_registry, local.write_logs["/aws/sagemaker"],
      local.write_metrics["/aws/sagemaker/TrainingJobs"], local.see_network, local.join_network, local.run_jobs,
      local.register_models, local.pass_own_role, local.track_runs, local.read_secrets,
    ])
    batch-job = jsonencode([
      local.read_data, local.write_data, local.read_models, local.write_models, local.list_buckets, local.use_key,
      local.write_metrics["NexusLLM"],
    ])
    batch-execution = jsonencode([
      local.pull_images, local.log_in_to_registry, local.write_logs["/aws/batch"], local.read_secrets, local.use_key,
    ])
    batch-instance = jsonencode([local.join_clusters, local.find_clusters, local.write_logs["/aws/batch"]])
  }

  find_log_groups = {
    Sid      = "FindLogGroups"
    Effect   = "Allow"
    Action   = "logs:DescribeLogGroups"
    Resource = "arn:aws:logs:${local.here}:log-group:*"
  }
  glue_connection = {
    Sid      = "UseOwnConnection"
    Effect   = "Allow"
    Action   = "glue:GetConnection"
    Resource = ["arn:aws:glue:${local.here}:catalog", "arn:aws:glue:${local.here}:connection/${var.name}-*"]
  }
  # Batch makes the clusters and names them after its compute environments, in one of two ways.
  join_clusters = {
    Sid    = "JoinBatchClusters"
    Effect = "Allow"
    Action = [
      "ecs:DeregisterContainerInstance", "ecs:Poll", "ecs:RegisterContainerInstance", "ecs:StartTelemetrySession",
      "ecs:SubmitContainerStateChange", "ecs:SubmitTaskStateChange", "ecs:UpdateContainerInstancesState",
    ]
    Resource = flatten([for cluster in ["AWSBatch-${var.name}-*", "${var.name}-*"] : [
      "arn:aws:ecs:${local.here}:cluster/${cluster}", "arn:aws:ecs:${local.here}:container-instance/${cluster}/*",
    ]])
  }
  find_clusters = {
    Sid    = "FindTheEndpoint"
    Effect = "Allow"
    Action = "ecs:DiscoverPollEndpoint"
    # "*": the action asks where the service answers, before there is a cluster to name.
    Resource = "*"
  }
}

resource "aws_iam_role" "this" {
  for_each             = local.services
  name                 = "${var.name}-${each.key}"
  permissions_boundary = var.permissions_boundary_arn
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [merge(
      { Effect = "Allow", Principal = { Service = each.value }, Action = "sts:AssumeRole" },
      # A service that acts for many customers says for whom; a machine has no such key.
      each.value == "ec2.amazonaws.com" ? {} : {
        Condition = { StringEquals = { "aws:SourceAccount" = var.account_id } }
      },
    )]
  })
}

resource "aws_iam_role_policy" "this" {
  # checkov:skip=CKV_AWS_290:the only writes on "*" are metrics, kept to one namespace by a condition
  # checkov:skip=CKV_AWS_355:each "*" is an action that takes no resource; the reason stands beside it
  for_each = local.permissions
  name     = "what-the-service-needs"
  role     = aws_iam_role.this[each.key].name
  policy   = jsonencode({ Version = "2012-10-17", Statement = jsondecode(each.value) })
}

resource "aws_iam_instance_profile" "batch" {
  name = "${var.name}-batch-instance"
  role = aws_iam_role.this["batch-instance"].name
}
