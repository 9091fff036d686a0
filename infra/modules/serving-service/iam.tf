# Two roles: ECS starts the task with one (images, logs, secrets), the program in it works with the other (its model).

locals {
  account = "${var.platform.region}:${var.platform.account_id}"
  assumed_by_tasks = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "ecs-tasks.amazonaws.com" }
      Condition = {
        StringEquals = { "aws:SourceAccount" = var.platform.account_id }
        ArnLike      = { "aws:SourceArn" = "arn:aws:ecs:${local.account}:*" }
      }
    }]
  })

  # Images of an ECR, from ACCOUNT.dkr.ecr.REGION.amazonaws.com/REPOSITORY:TAG; others need no permission.
  repository_arns = distinct([
    for parts in [
      for image in compact([var.gateway_image, var.engine.image, var.tracing_image]) :
      regex("^(?:([0-9]{12})\\.dkr\\.ecr\\.([a-z0-9-]+)\\.amazonaws\\.com/([^:@]+))?", image)
    ] : "arn:aws:ecr:${parts[1]}:${parts[0]}:repository/${parts[2]}" if parts[0] != null
  ])
  # `ARN:KEY::` names one key of a secret; the permission is the secret's.
  secret_arns = distinct([for arn in values(var.secrets) : join(":", slice(split(":", arn), 0, 7))])

  execution_statements = concat(
    length(local.repository_arns) == 0 ? [] : [
      {
        Sid      = "LogInToEcr" # the action knows no resources
        Effect   = "Allow"
        Action   = ["ecr:GetAuthorizationToken"]
        Resource = ["*"]
      },
      {
        Sid      = "PullImages"
        Effect   = "Allow"
        Action   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
        Resource = local.repository_arns
      },
    ],
    [{
      Sid      = "WriteLogs"
      Effect   = "Allow"
      Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
      Resource = ["arn:aws:logs:${local.account}:log-group:${local.log_group_name}:*"]
    }],
    length(local.secret_arns) == 0 ? [] : [{
      Sid      = "ReadSecrets"
      Effect   = "Allow"
      Action   = ["secretsmanager:GetSecretValue"]
      Resource = local.secret_arns
    }],
  )
  # jsonencode of a conditional list needs one type; a condition would make two.
  decrypt_secrets = length(local.secret_arns) == 0 ? [] : [{
    Sid       = "DecryptSecrets"
    Effect    = "Allow"
    Action    = ["kms:Decrypt"]
    Resource  = [var.platform.kms_key_arn]
    Condition = { StringEquals = { "kms:ViaService" = "secretsmanager.${var.platform.region}.amazonaws.com" } }
  }]

  # `nexus deploy` puts other packages below package/ and rolls them out to tasks with this very role.
  model_keys = distinct([coalesce(var.model.key, "none"), "package"])
  read_model = !local.has_model ? [] : [{
    Sid      = "ReadTheModel"
    Effect   = "Allow"
    Action   = ["s3:GetObject"]
    Resource = [for key in local.model_keys : "${var.platform.models_bucket_arn}/${key}/*"]
  }]
  list_model = !local.has_model ? [] : [{
    Sid       = "ListTheModel"
    Effect    = "Allow"
    Action    = ["s3:ListBucket"]
    Resource  = [var.platform.models_bucket_arn]
    Condition = { StringLike = { "s3:prefix" = flatten([for key in local.model_keys : [key, "${key}/*"]]) } }
  }]
  decrypt_model = !local.has_model ? [] : [{
    Sid       = "DecryptTheModel"
    Effect    = "Allow"
    Action    = ["kms:Decrypt"]
    Resource  = [var.platform.kms_key_arn]
    Condition = { StringEquals = { "kms:ViaService" = "s3.${var.platform.region}.amazonaws.com" } }
  }]
  log_in_to_database = var.database == null ? [] : [{
    Sid      = "LogInToTheDatabase"
    Effect   = "Allow"
    Action   = ["rds-db:connect"]
    Resource = [var.database.connect_arn]
  }]
  send_traces = var.tracing_image == null ? [] : [{
    Sid      = "SendTraces" # the actions know no resources
    Effect   = "Allow"
    Action   = ["xray:GetSamplingRules", "xray:GetSamplingTargets", "xray:PutTelemetryRecords", "xray:PutTraceSegments"]
    Resource = ["*"]
  }]
}

resource "aws_iam_role" "execution" {
  name                 = "${local.service_name}-execution"
  description          = "Starts tasks of ${local.service_name}: images, logs, secrets."
  permissions_boundary = var.platform.permissions_boundary_arn
  assume_role_policy   = local.assumed_by_tasks
}

resource "aws_iam_role_policy" "execution" {
  name   = "start-tasks"
  role   = aws_iam_role.execution.id
  policy = jsonencode({ Version = "2012-10-17", Statement = flatten([local.execution_statements, local.decrypt_secrets]) })
}

resource "aws_iam_role" "task" {
  name                 = "${local.service_name}-task"
  description          = "The program in tasks of ${local.service_name}: its model, its database, its traces."
  permissions_boundary = var.platform.permissions_boundary_arn
  assume_role_policy   = local.assumed_by_tasks
}

resource "aws_iam_role_policy" "task" {
  # A gateway that only passes requests on may do nothing in AWS, and a policy without statements is none.
  count = local.has_model || var.database != null || var.tracing_image != null ? 1 : 0
  name  = "work"
  role  = aws_iam_role.task.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = flatten([
      local.read_model, local.list_model, local.decrypt_model, local.log_in_to_database, local.send_traces,
    ])
  })
}
